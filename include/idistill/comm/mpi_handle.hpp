#pragma once
// The one public header that shows mpi.h: for libraries that take a communicator themselves (parallel HDF5, in module
// io).

#include <mpi.h>

#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// False for ranks that are threads of one process.
[[nodiscard]] bool is_mpi(const Communicator& communicator) noexcept;

/// The MPI communicator behind the handle; it stays the property of the handle, whoever keeps it longer duplicates it.
/// Throws Error(internal_error) for ranks that are threads.
MPI_Comm mpi_handle(const Communicator& communicator);

/// For as long as it lives this rank is inside a call that waits for the other ranks on its own, without end (parallel
/// HDF5). The stall timeout holds there too, but ends the job from another thread: the call cannot be left.
class BlockingCall {
public:
    /// `what` for the message: "H5Fflush of weights.h5.state".
    BlockingCall(Communicator& communicator, std::string what);
    ~BlockingCall();
    BlockingCall(const BlockingCall&) = delete;
    BlockingCall& operator=(const BlockingCall&) = delete;

private:
    Communicator& communicator_;
};

}  // namespace idistill::comm
