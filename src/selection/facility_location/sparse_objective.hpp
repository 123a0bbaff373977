#pragma once
// Facility locations by the similarities of nearest neighbours alone.

#include <memory>

#include "neighbours.hpp"
#include "objective.hpp"

namespace idistill::selection {

/// As pool_objective(), where a similarity that is not among the neighbours counts as none.
std::unique_ptr<Objective> sparse_objective(comm::Communicator& comm, RepresentedSamples samples,
                                            Neighbours neighbours);

}  // namespace idistill::selection
