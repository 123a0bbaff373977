#pragma once
// The sum of long vectors that ranks compute side by side, added in the order of the ranks: every rank adds up one
// slice of it, so that none receives the whole of every vector.

#include <cstdint>
#include <span>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Collective. Adds rank 0's part, then rank 1's, ... to this rank's slice of `sum`; the rest of `sum` stays as it is.
/// `part`: (numbers in sum), or empty on a rank that has none this time. Receives at most `sum.size()` numbers and
/// holds no more of them at a time, counting copies.
void add_to_slices(Communicator& communicator, std::span<const float> part, std::span<float> sum);

/// Collective. After the last part: every rank's slice of `sum` on every rank. Receives at most `sum.size()` numbers.
void share_slices(Communicator& communicator, std::span<float> sum);

}  // namespace idistill::comm
