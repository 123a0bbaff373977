#pragma once
// Optimal weights of Influence Distillation (arXiv 2505.19051), on the shards: minimise -p.w + (eta/2) w'Qw +
// (lambda/2)|w|^2 subject to w >= 0, sum w = N, with eta Q = (1/N) F diag(curvature) F' a thin product; and, where they
// are given, w <= X and at most so much weight for the rows of a group.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/selection/selection.hpp"

namespace idistill::selection {

/// The pool is cut into blocks of this many rows (the last may be shorter): 1,024 blocks at most, 1,024 rows at least.
/// Sums over rows are formed within a block and added in block order, so that they do not depend on the rank count.
std::int64_t weight_block_rows(std::int64_t pool_rows);

/// First row and number of rows of a rank: whole blocks, contiguous, about equally many for every rank. Pure.
struct BlockedRows {
    std::int64_t first = 0;
    std::int64_t count = 0;
};
BlockedRows blocked_shard(std::int64_t pool_rows, std::int64_t block_rows, int rank, int size);

/// The problem as one rank holds it. Only rows that may get a weight are variables: n of them here, rows of the ranks
/// ascending, no block on two ranks. pool_rows, block_rows, curvature, largest and group_most agree on all ranks.
struct WeightedProblem {
    std::int64_t pool_rows = 0;  ///< N; rows that are no variables count as well
    std::int64_t block_rows = 0;
    std::vector<std::int64_t> row;  ///< (n) global pool rows, ascending
    std::vector<double> influence;  ///< (n) p
    std::vector<float> factor;      ///< (n x r) F, row-major
    /// (r) eta times what a column of F counts in Q; one below zero is clipped: the column is left out.
    std::vector<double> curvature;
    double largest = std::numeric_limits<double>::infinity();  ///< X: no weight is above it
    std::vector<std::int32_t> group;                           ///< (n) place in group_most, -1: none; without groups ()
    std::vector<double> group_most;                            ///< (groups) their weights add up to at most this, > 0
};

/// What decides the number of positive weights: exactly one member is set.
struct WeightedTarget {
    std::optional<std::int64_t> count;  ///< k, at least 1
    std::optional<double> lambda;       ///< above 0
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

/// Collective: solve_weights at a learning rate eta, nothing: at one that is found with them. `problem` and `offset`
/// (n; empty: 0), which p is less by, are those of eta = 1. As far as second order knows, weights w gain most by the
/// step eta = influence.w / w'Qw. From the weights of first order on, each learning rate is the best step of the
/// weights before: it spreads them, which lets the next step be longer and gain more. It ends with the first weights
/// whose best step gains at most a tenth more than that of those before, as longer steps leave what second order knows;
/// with those before, where it gains less. Where nothing has curvature, or weights of first order gain most, these are
/// given, with learning rate 0. `offset` only counts at a learning rate that is given. Throws as solve_weights.
Weights solve_second_order(comm::Communicator& communicator, WeightedProblem problem, std::span<const double> offset,
                           const WeightedTarget& target, std::optional<double> learning_rate);

/// lambda = 0 of first order: N/k each on the k rows of largest p, ties by row; of a group at most as many as its most
/// weight allows, rounded down. Collective; throws as solve_weights.
Weights equal_weights(comm::Communicator& communicator, const WeightedProblem& problem, std::int64_t count);

/// What `--selection weighted` needs beside a request.
struct WeightedRequest {
    std::optional<double> lambda;              ///< nothing: as many weights as the budget has samples; 0: equal ones
    std::vector<double> curvature;             ///< (columns of F) what a column counts in Q; empty: first order
    std::optional<double> learning_rate = {};  ///< eta; nothing: found with the weights
    /// So many last columns of the shard are F and no influence; 0: the influence itself is F.
    std::int64_t factor_columns = 0;
    /// (columns of F; empty: 0) product of what a column stands for with the constant part b of the step, which moves
    /// the point that p belongs to: p_i is less by eta sum_c curvature_c F_ic offset_c = eta <a*g_i, H_T b>. Only at
    /// a given learning rate.
    std::vector<double> offset = {};
    double largest = std::numeric_limits<double>::infinity();  ///< most weight of a sample, of N together
    /// Source number -> most of all weight that its samples get, 0 to 1.
    std::map<std::int32_t, double> source_share = {};
};

/// Collective: the rows of positive weight, in order of weight, ties by row. p is the mean over the columns of
/// influence, F these or the columns behind them. The shard must be this rank's blocked_shard of the pool at
/// weight_block_rows; it is held in memory at second order, and 24 bytes a row. Of the request only the budget in
/// samples and what says which rows can be taken count. Throws as solve_weights.
Selection select_weighted(comm::Communicator& communicator, const Shard& shard, const Request& request,
                          const WeightedRequest& weighted);

}  // namespace idistill::selection
