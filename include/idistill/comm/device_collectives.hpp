#pragma once
// NCCL for the memory of the ranks' GPUs. No CUDA types, and nothing of CUDA is linked.

#include <cstddef>
#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Elements that one NCCL call moves at most: bounds what one wait waits for.
inline constexpr std::size_t largest_device_piece = std::size_t{1} << 28U;

/// Collective, once, when every rank has made the GPU that is its own CUDA's current device: from then on
/// `communicator.device()` has the collectives over the memory of these GPUs. They take device pointers, begin when the
/// work before them on the default stream is done, and are done when they return. The calls are those of the NCCL and
/// the CUDA runtime that LibTorch has brought into the process. Gives the library with its version: "NCCL 2.28.9".
/// Throws Error(usage) where the process has no such library, Error(internal_error) with NCCL's own words for what
/// fails, Error(restart_me) when a rank or its data does not arrive within the stall timeout; nothing runs on the GPU
/// any more then. Released with the communicator, before MPI ends. One rank works too, but needs none of this.
std::string connect_devices(Communicator& communicator, std::size_t piece = largest_device_piece);

}  // namespace idistill::comm
