#pragma once
// Ranks as threads of one process: the communicator of unit tests.

#include <functional>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Runs `body` once per rank, each on its own thread with its own communicator, and joins them. If ranks throw, the
/// others are woken out of their collectives and the exception of the lowest throwing rank is rethrown.
void run_ranks_as_threads(int ranks, const std::function<void(Communicator&)>& body,
                          double stall_timeout_seconds = 60.0);

}  // namespace idistill::comm
