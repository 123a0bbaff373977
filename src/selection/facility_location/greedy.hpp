#pragma once
// Greedy maximisation of a monotone submodular function under a budget and caps: of the best sets of k samples it
// reaches 1 - 1/e (Nemhauser, Wolsey, Fisher 1978); with caps, a half.

#include <cstdint>
#include <span>
#include <vector>

#include "../limits.hpp"
#include "idistill/comm/communicator.hpp"
#include "idistill/selection/selection.hpp"
#include "objective.hpp"

namespace idistill::selection {

/// What a subset that maximises a submodular function came to.
struct SubsetReport {
    double objective = 0.0;         ///< f of the selection
    double bound = 0.0;             ///< no selection within the budget and caps has more, by the gains of what is left
    std::int64_t gains = 0;         ///< that were computed
    std::int64_t without_gain = 0;  ///< picks that add nothing to those before them
};

struct Subset {
    std::vector<std::int64_t> rows;  ///< in the order in which they were picked
    SubsetReport report;
};

/// The candidates (rows, ascending) picked until the limits are reached, or the next best sample does not fit into the
/// tokens. Collective, the same on every rank.
///
/// Exact: every pick is a candidate of largest gain, ties by row. Gains are computed lazily (Minoux 1978): one from an
/// earlier round is an upper bound, and what is bounded below the best is not looked at.
///
/// `stochastic`: every pick is the best of (candidates / picks) ln(1 / 0.01) of them, drawn by the request's seed
/// (Mirzasoleiman et al. 2015): 1 - 1/e - 0.01 in expectation.
Subset choose_greedily(comm::Communicator& comm, Objective& objective, std::span<const std::int64_t> candidates,
                       const Request& request, const Limits& limits, bool stochastic);

}  // namespace idistill::selection
