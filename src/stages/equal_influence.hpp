#pragma once
// A pool that influence does not tell apart.

#include "run.hpp"

namespace idistill::stages {

/// What there is to choose by. Where no column tells the samples apart but for rounding, all have the same numbers, so
/// that picks go by the order of the pool and not by the last bits. Collective.
selection::InfluenceRows to_choose_by(comm::Communicator& comm, const RatedPool& pool);

}  // namespace idistill::stages
