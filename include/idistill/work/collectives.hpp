#pragma once
// Tensors between ranks: those of a GPU go from GPU to GPU, those of the host by MPI.

#include <torch/types.h>

#include "idistill/comm/communicator.hpp"

namespace idistill::work {

/// Collective, in place, as comm::Collectives::all_reduce_disjoint. `tensor`: contiguous, of fp32 or fp64, and on every
/// rank in the same kind of memory. On a device without collectives of its own it goes through the host.
void all_reduce_disjoint(comm::Communicator& comm, const torch::Tensor& tensor);

/// Collective: the values of rank 0's tensor; for tensors as all_reduce_disjoint takes them, of the same shape.
void broadcast(comm::Communicator& comm, const torch::Tensor& tensor);

}  // namespace idistill::work
