#pragma once
// The one public header that shows mpi.h: for libraries that take a communicator themselves (parallel HDF5, in module
// io).

#include <mpi.h>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// The MPI communicator behind the handle; it stays the property of the handle, whoever keeps it longer duplicates it.
/// Throws Error(internal_error) for ranks that are threads.
MPI_Comm mpi_handle(const Communicator& communicator);

}  // namespace idistill::comm
