#include "idistill/comm/mpi_handle.hpp"

#include <utility>

#include "mpi_communicator.hpp"

namespace idistill::comm {

BlockingCall::BlockingCall(Communicator& communicator, std::string what) : communicator_(communicator) {
    as_mpi(communicator_).pulse().enter(std::move(what), as_mpi(communicator_).collectives_so_far());
}

BlockingCall::~BlockingCall() { as_mpi(communicator_).pulse().leave(); }

bool is_mpi(const Communicator& communicator) noexcept {
    return dynamic_cast<const MpiCommunicator*>(&communicator) != nullptr;
}

MPI_Comm mpi_handle(const Communicator& communicator) {
    return as_mpi(const_cast<Communicator&>(communicator)).handle();
}

}  // namespace idistill::comm
