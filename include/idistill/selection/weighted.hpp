#pragma once
// Optimal weights of Influence Distillation (arXiv 2505.19051), on the shards: minimise -p.w + (eta/2) w'Qw +
// (lambda/2)|w|^2 subject to w >= 0, sum w = N, with eta Q = (1/N) F diag(curvature) F' a thin product; and, where they
// are given, w <= X and at most so much weight for the rows of a group.

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/rows.hpp"
#include "idistill/selection/selection.hpp"

namespace idistill::selection {

/// The pool is cut into blocks of this many rows (the last may be shorter): 1,024 blocks at most, 1,024 rows at least.
/// Sums over rows are formed within a block and added in block order, so that they do not depend on the rank count.
std::int64_t weight_block_rows(std::int64_t pool_rows);

/// Rows of a rank: whole blocks, contiguous, about equally many for every rank. Pure.
data::RowRange blocked_shard(std::int64_t pool_rows, std::int64_t block_rows, int rank, int size);

/// The problem as one rank holds it. Only rows that may get a weight are variables: n of them here, rows of the ranks
/// ascending, no block on two ranks. pool_rows, block_rows, curvature, largest and group_most agree on all ranks.
struct WeightedProblem {
    std::int64_t pool_rows = 0;  ///< N; rows that are no variables count as well
    std::int64_t block_rows = 0;
    std::vector<std::int64_t> row = {};  ///< (n) global pool rows, ascending
    std::vector<double> influence = {};  ///< (n) p
    std::vector<float> factor = {};      ///< (n x r) F, row-major
    /// (r) eta times what a column of F counts in Q; one below zero is clipped: the column is left out.
    std::vector<double> curvature = {};
    std::vector<double> offset = {};                           ///< (n; empty: 0) p is less by, times the learning rate
    double largest = std::numeric_limits<double>::infinity();  ///< X: no weight is above it
    std::vector<std::int32_t> group = {};                      ///< (n) place in group_most, -1: none; without groups ()
    std::vector<double> group_most = {};                       ///< (groups) their weights add up to at most this, > 0
    [[nodiscard]] double total() const { return static_cast<double>(pool_rows); }  ///< what all weights add up to
};

/// Rows that can have weight, and their limits.
struct WeightRoom {
    double total = 0.0;                                        ///< N, what all weights must add up to
    double largest = std::numeric_limits<double>::infinity();  ///< no weight is above it
    std::vector<double> group_most;                            ///< (groups) weight of a group's rows together, at most
    std::vector<std::int64_t> rows;                            ///< (groups + 1) of each group; last: of no group

    /// Most that all rows together can have; infinite where nothing limits some of them.
    [[nodiscard]] double most() const noexcept;

    /// Fewest rows that can have the total: of each group and of the rest, as `rows`. Nothing where all are too few.
    [[nodiscard]] std::optional<std::vector<std::int64_t>> fewest() const;
};

/// Throws Error(usage) where the rows, or `count` of them, cannot have the total, and says what would do:
/// --max-weight, --source-share or --select.
void check_room(const WeightRoom& room, std::optional<std::int64_t> count);

/// What decides the number of positive weights: exactly one member is set.
struct WeightedTarget {
    std::optional<std::int64_t> count;  ///< k, at least 1
    std::optional<double> lambda;       ///< above 0
};

/// How optimal weights came about.
struct WeightReport {
    double lambda = 0.0;
    bool curved = true;          ///< false: second order was asked for, of an influence without curvature
    double learning_rate = 0.0;  ///< of second order; 0: of first order
    /// Beside a given learning rate: that which gains most along the weights; infinite where nothing is curved, and
    /// where a constant part of the step counts, which moves it.
    double best_learning_rate = std::numeric_limits<double>::infinity();
    /// Second order: p.w / N of eta = 0, the mean influence by weight; what a constant part of the step takes off p
    /// does not count.
    double mean_influence = 0.0;
    double threshold = 0.0;          ///< nu: a row of no full group has weight where p - eta (Q w) is above it
    std::int64_t support = 0;        ///< positive weights
    std::int64_t reachable = 0;      ///< positive weights before the cut to k; with first order, or no cut: support
    double objective = 0.0;          ///< the minimum
    double gap = 0.0;                ///< duality gap: the objective is at most this far above the true minimum
    std::int64_t iterations = 0;     ///< Newton steps, all lambdas together
    std::int64_t clipped = 0;        ///< columns of F with negative curvature that were left out
    std::int64_t largest = 0;        ///< of the positive weights, those at the largest weight allowed
    std::vector<std::int32_t> full;  ///< groups that have their most weight; of the problem, by number
};

/// This rank's positive weights; the report is the same on every rank.
struct Weights {
    std::vector<std::int64_t> row;  ///< global, ascending
    std::vector<double> weight;     ///< sum over the ranks: N
    WeightReport report;
};

/// Collective; the same bits for any number of ranks.
///
/// With `lambda`: the minimiser. With `count` and no curvature: w_i = max(0, (p_i - nu) / lambda), exactly k
/// positive weights; where p is tied at the boundary, the nearest reachable count (the lower of two), equal p getting
/// equal weights. With `count` and curvature, k positive weights as well: lambda is searched for the smallest support
/// of at least k (down to 1e-6 of where the search starts); where it is larger, its k largest weights (ties: lower row)
/// are kept and the problem is solved again on these rows, warm-started, at the same lambda, or one raised until all of
/// them have weight.
///
/// Limits (largest, group_most) that these weights keep change nothing. Otherwise, with `count` and no curvature: the
/// largest lambda with k positive weights, found by search to nine digits, or the nearest reachable count. With
/// curvature the cut keeps, of every group, as many of its largest weights as the limits need, which can be more than
/// k together; weights within 1e-13 of a largest weight X from 0 or X are taken to be there.
///
/// The minimiser is found through the dual, whose variable has the r entries of F'w: semismooth Newton with an exact
/// threshold in every evaluation, started from its neighbour in lambda. A step costs one pass over F and some over the
/// rows with weight, whatever the condition of Q, where a projected gradient needs hundreds of passes.
///
/// Throws Error(usage) for more rows than there are variables, for a lambda or count out of range, and for limits that
/// leave no room for the weights (check_room); Error(internal_error) for sizes that do not fit, rows out of order, or
/// blocks on two ranks.
Weights solve_weights(comm::Communicator& communicator, const WeightedProblem& problem, const WeightedTarget& target);

/// Collective: solve_weights at a learning rate eta, nothing: at one that is found with them. `problem` is that of
/// eta = 1. As far as second order knows, weights w gain most by the step eta = influence.w / w'Qw. From the weights of
/// first order on, each learning rate is the best step of the weights before: it spreads them, which lets the next step
/// be longer and gain more. It ends with the first weights whose best step gains at most a tenth more than that of
/// those before, as longer steps leave what second order knows; with those before, where it gains less. Where nothing
/// has curvature, or weights of first order gain most, these are given, with learning rate 0. The offset only counts at
/// a learning rate that is given. Throws as solve_weights.
Weights solve_second_order(comm::Communicator& communicator, WeightedProblem problem, const WeightedTarget& target,
                           std::optional<double> learning_rate);

/// lambda = 0 of first order: N/k each on the k rows of largest p, ties by row; of a group at most as many as its most
/// weight allows, rounded down. Collective; throws as solve_weights.
Weights equal_weights(comm::Communicator& communicator, const WeightedProblem& problem, std::int64_t count);

}  // namespace idistill::selection
