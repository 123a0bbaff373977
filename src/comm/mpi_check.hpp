#pragma once
// Checks of MPI calls, in every build type; ownership of communicators.

#include <mpi.h>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Throws Error(internal_error) with the call's name and MPI's own text unless `code` is MPI_SUCCESS.
void check(const char* call, int code);

/// Between MPI_Init_thread and MPI_Finalize.
bool mpi_is_up() noexcept;

MPI_Datatype mpi_type(ElementType type);
MPI_Op mpi_operation(Reduction reduction);

/// A communicator that returns its errors, freed with its owner: only while MPI is up, never while an exception
/// unwinds.
class OwnedComm {
public:
    explicit OwnedComm(MPI_Comm comm);
    ~OwnedComm();
    OwnedComm(const OwnedComm&) = delete;
    OwnedComm& operator=(const OwnedComm&) = delete;

    [[nodiscard]] MPI_Comm get() const noexcept { return comm_; }

private:
    MPI_Comm comm_;
    int exceptions_;
};

}  // namespace idistill::comm
