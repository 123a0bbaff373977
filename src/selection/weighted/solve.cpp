#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "idistill/base/error.hpp"
#include "idistill/selection/weighted.hpp"
#include "over_ranks.hpp"
#include "search.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t most_blocks = 1024;
constexpr std::int64_t least_block_rows = 1024;
constexpr double worthwhile_gain = 1.1;  // times what the step before gains: --learning-rate auto goes on
constexpr double tolerance = 1e-12;      // of a limit: how far rounding may take weights that keep it

Error usage_error(const std::string& field, const std::string& expected, const std::string& found,
                  const std::string& remedy) {
    return {ExitCode::usage, {"weights", field, expected, found, remedy}};
}

void check_sizes(const WeightedProblem& problem) {
    const bool fits = problem.block_rows > 0 && problem.influence.size() == problem.row.size() &&
                      problem.factor.size() == problem.row.size() * problem.curvature.size() &&
                      problem.group.size() == (problem.group_most.empty() ? 0 : problem.row.size());
    if (!fits) throw Error(ExitCode::internal_error, {"weights", "sizes", "n, n, n x r and n", "others", ""});
}

std::int64_t count_rows(comm::Communicator& communicator, const WeightedProblem& problem) {
    auto count = static_cast<std::int64_t>(problem.row.size());
    communicator.all_reduce(std::span(&count, 1), comm::Reduction::sum);
    return count;
}

void check_count(std::int64_t count, std::int64_t variables) {
    if (variables == 0)
        throw usage_error("variables", "a sample with finite influence on every column", "none",
                          "Check model and pool.");
    if (count < 1 || count > variables)
        throw usage_error("--select", "from 1 to the number of eligible samples",
                          std::to_string(count) + " asked for, " + std::to_string(variables) + " eligible",
                          "Ask for " + std::to_string(variables) + " or fewer.");
}

/// The rows at these places as a problem of their own.
WeightedProblem restricted(const WeightedProblem& problem, const std::vector<std::size_t>& places) {
    WeightedProblem part{.pool_rows = problem.pool_rows,
                         .block_rows = problem.block_rows,
                         .curvature = problem.curvature,
                         .largest = problem.largest,
                         .group_most = problem.group_most};
    const std::size_t width = problem.curvature.size();
    for (const auto place : places) {
        part.row.push_back(problem.row[place]);
        part.influence.push_back(problem.influence[place]);
        const auto first = problem.factor.begin() + static_cast<std::ptrdiff_t>(place * width);
        part.factor.insert(part.factor.end(), first, first + static_cast<std::ptrdiff_t>(width));
        if (!problem.group.empty()) part.group.push_back(problem.group[place]);
    }
    return part;
}

Weights to_weights(const WeightedProblem& problem, const DualPoint& point) {
    Weights weights{.row = {}, .weight = point.weight, .report = point.report};
    for (const auto place : point.active) weights.row.push_back(problem.row[place]);
    return weights;
}

/// (n) weights of all rows.
std::vector<double> weight_of_rows(const WeightedProblem& problem, const Weights& weights) {
    std::vector<double> of_row(problem.row.size(), 0.0);
    for (std::size_t i = 0, next = 0; i < of_row.size() && next < weights.row.size(); ++i)
        if (problem.row[i] == weights.row[next]) of_row[i] = weights.weight[next++];
    return of_row;
}

/// Notes which limits the weights meet, and returns whether they keep all.
bool keeps_limits(const BlockSums& sums, const WeightedProblem& problem, Weights& weights) {
    const std::size_t groups = problem.group_most.size();
    const auto of_row = weight_of_rows(problem, weights);
    // Weight of every group, rows at the largest weight, rows above it.
    const auto found = sums(groups + 2, [&](std::size_t i, std::span<double> of_block) {
        if (groups > 0 && problem.group[i] >= 0) of_block[static_cast<std::size_t>(problem.group[i])] += of_row[i];
        of_block[groups] += of_row[i] >= (1.0 - tolerance) * problem.largest ? 1.0 : 0.0;
        of_block[groups + 1] += of_row[i] > (1.0 + tolerance) * problem.largest ? 1.0 : 0.0;
    });
    bool kept = found[groups + 1] == 0.0;
    for (std::size_t g = 0; g < groups; ++g) {
        if (found[g] >= (1.0 - tolerance) * problem.group_most[g])
            weights.report.full.push_back(static_cast<std::int32_t>(g));
        kept = kept && found[g] <= (1.0 + tolerance) * problem.group_most[g];
    }
    weights.report.largest = static_cast<std::int64_t>(found[groups]);
    return kept;
}

/// First order without limits, on `count` rows: w = (p - threshold) N / excess.
struct ClosedForm {
    std::int64_t count = 0;  ///< k, or where p is tied there, the nearest other one
    double threshold = 0.0;
    double excess = 0.0;  ///< sum of p - threshold over the rows above it: N lambda; 0 where all p are equal
};

ClosedForm closed_form(const BlockSums& sums, std::span<const double> influence, std::int64_t k, std::int64_t rows) {
    auto& communicator = sums.communicator();
    const auto around = count_above(communicator, influence, nth_largest(communicator, influence, k));
    const bool lower = around.strictly > 0 && k - around.strictly <= around.at_least - k;
    ClosedForm form;
    form.count = around.at_least == k || !lower ? around.at_least : around.strictly;
    if (form.count < rows) {
        form.threshold = nth_largest(communicator, influence, form.count + 1);
    } else {
        const double lowest = nth_largest(communicator, influence, rows);
        form.threshold = lowest - (sums.sum(influence) / static_cast<double>(rows) - lowest);
        if (nth_largest(communicator, influence, 1) == lowest) form.threshold = lowest;
    }
    const auto add = [&](std::size_t i, std::span<double> of_block) {
        of_block[0] += std::max(0.0, influence[i] - form.threshold);
    };
    form.excess = sums(1, add).front();
    return form;
}

/// The objective of first order.
double linear_objective(const BlockSums& sums, const WeightedProblem& problem, const Weights& weights) {
    const auto of_row = weight_of_rows(problem, weights);
    const auto add = [&](std::size_t i, std::span<double> of_block) {
        of_block[0] += 0.5 * weights.report.lambda * of_row[i] * of_row[i] - problem.influence[i] * of_row[i];
    };
    return sums(1, add).front();
}

Weights first_order(const BlockSums& sums, const WeightedProblem& problem, WeightDual& dual, std::int64_t k,
                    std::int64_t rows) {
    const auto form = closed_form(sums, problem.influence, k, rows);
    Weights weights;
    for (std::size_t i = 0; i < problem.row.size(); ++i) {
        const double above = problem.influence[i] - form.threshold;
        if (form.excess > 0.0 && !(above > 0.0)) continue;
        weights.row.push_back(problem.row[i]);
        weights.weight.push_back(form.excess > 0.0 ? problem.total() * (above / form.excess)
                                                   : problem.total() / static_cast<double>(form.count));
    }
    weights.report.lambda = form.excess / problem.total();
    weights.report.threshold = form.threshold;
    weights.report.support = weights.report.reachable = form.count;
    weights.report.objective = linear_objective(sums, problem, weights);
    if (keeps_limits(sums, problem, weights)) return weights;
    // Where all p are equal, so are the weights for every lambda, but for limits.
    const double lambda = weights.report.lambda > 0.0 ? weights.report.lambda : 1.0;
    return to_weights(problem, nearest_support(dual, lambda, k, rows, dual.origin()));
}

/// Places of the rows of every group; last: of the rows in none. Without groups `group` is empty.
std::vector<std::vector<std::size_t>> members_of(std::span<const std::int32_t> group, std::size_t rows,
                                                 std::size_t groups) {
    std::vector<std::vector<std::size_t>> members(groups + 1);
    for (std::size_t i = 0; i < rows; ++i)
        members[group.empty() || group[i] < 0 ? groups : static_cast<std::size_t>(group[i])].push_back(i);
    return members;
}

/// Places among the active rows of the k largest weights; of every group first those that the limits need, which may
/// be more.
std::vector<std::size_t> places_to_keep(const BlockSums& sums, const WeightedProblem& problem, const DualPoint& point,
                                        std::int64_t k) {
    auto& communicator = sums.communicator();
    std::vector<std::int32_t> group;
    for (std::size_t a = 0; a < point.active.size() && !problem.group.empty(); ++a)
        group.push_back(problem.group[point.active[a]]);
    const auto room = room_of(communicator, problem, group, point.active.size());
    const auto fewest = room.fewest().value_or(room.rows);
    const auto members = members_of(group, point.active.size(), room.group_most.size());
    auto values = point.weight;
    for (std::size_t g = 0; g < members.size(); ++g)
        for (const auto place : largest_places(communicator, point.weight, members[g], fewest[g]))
            values[place] += 2.0 * room.total;  // above every weight
    std::vector<std::size_t> all(values.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    return largest_places(communicator, values, all,
                          std::max(k, std::accumulate(fewest.begin(), fewest.end(), std::int64_t{0})));
}

/// k weights at least, cut to the k largest and solved again.
Weights second_order(const BlockSums& sums, const WeightedProblem& problem, WeightDual& dual, std::int64_t k,
                     double lambda) {
    const auto best = smallest_support(dual, lambda, k, dual.origin());
    if (best.report.support <= k) return to_weights(problem, best);
    std::vector<std::size_t> kept;
    for (const auto a : places_to_keep(sums, problem, best, k)) kept.push_back(best.active[a]);
    const auto part = restricted(problem, kept);
    const BlockSums of_part(sums.communicator(), part.block_rows, part.row);
    WeightDual cut(of_part, part);
    auto weights =
        to_weights(part, smallest_support(cut, best.report.lambda, count_rows(sums.communicator(), part), best));
    weights.report.reachable = best.report.support;
    weights.report.iterations = cut.newton_steps();
    return weights;
}

/// The step along some weights at which they gain nothing by going on, influence.w over w'Qw of eta = 1, and what they
/// gain by it. Gain 0: they gain nothing, or nothing is curved and the step infinite.
struct BestStep {
    double learning_rate = 0.0;
    double gain = 0.0;
    double influence = 0.0;  ///< influence.w
};
BestStep best_step(const BlockSums& sums, const WeightedProblem& problem, const Weights& weights) {
    const auto of_row = weight_of_rows(problem, weights);
    const std::size_t width = problem.curvature.size();
    const auto products = sums(1 + width, [&](std::size_t i, std::span<double> of_block) {  // influence.w, F'w
        if (of_row[i] == 0.0) return;
        of_block[0] += of_row[i] * problem.influence[i];
        for (std::size_t c = 0; c < width; ++c)
            of_block[1 + c] += of_row[i] * static_cast<double>(problem.factor[i * width + c]);
    });
    double curved = 0.0;
    for (std::size_t c = 0; c < width; ++c)
        curved += std::max(0.0, problem.curvature[c]) / problem.total() * products[1 + c] * products[1 + c];
    const double influence = products[0];
    if (!(curved > 0.0)) return {std::numeric_limits<double>::infinity(), 0.0, influence};
    if (!(influence > 0.0)) return {0.0, 0.0, influence};
    return {influence / curved, influence * influence / (2.0 * curved), influence};
}

/// Places that can be among `count` equal weights: of every group the largest p, as many as its most weight allows.
std::vector<std::size_t> within_shares(comm::Communicator& communicator, const WeightedProblem& problem,
                                       const WeightRoom& room, std::int64_t count) {
    const double each = room.total / static_cast<double>(count);
    const auto members = members_of(problem.group, problem.row.size(), room.group_most.size());
    auto open = members.back();
    std::int64_t together = room.rows.back();
    for (std::size_t g = 0; g < room.group_most.size(); ++g) {
        const double allowed = std::floor(room.group_most[g] / each * (1.0 + 1e-9));
        const auto most = static_cast<std::int64_t>(std::min(allowed, static_cast<double>(room.rows[g])));
        together += most;
        for (const auto place : largest_places(communicator, problem.influence, members[g], most))
            open.push_back(place);
    }
    if (together < count)
        throw Error(ExitCode::usage, {"--source-share",
                                      {},
                                      "shares with room for " + std::to_string(count) + " equal weights",
                                      "room for " + std::to_string(together) + ", shares rounded down to samples",
                                      "Raise a share, or leave out --lambda 0: other weights can fill the shares."});
    std::sort(open.begin(), open.end());
    return open;
}

}  // namespace

std::int64_t weight_block_rows(std::int64_t pool_rows) {
    return std::max(least_block_rows, (pool_rows + most_blocks - 1) / most_blocks);
}

data::RowRange blocked_shard(std::int64_t pool_rows, std::int64_t block_rows, int rank, int size) {
    const std::int64_t blocks = (pool_rows + block_rows - 1) / block_rows;
    const auto border = [&](std::int64_t part) { return std::min(pool_rows, blocks * part / size * block_rows); };
    return {border(rank), border(rank + 1) - border(rank)};
}

Weights solve_weights(comm::Communicator& communicator, const WeightedProblem& problem, const WeightedTarget& target) {
    check_sizes(problem);
    if (target.count.has_value() == target.lambda.has_value())
        throw Error(ExitCode::internal_error, {"weights", "target", "a count or lambda", "none or both", ""});
    const BlockSums sums(communicator, problem.block_rows, problem.row);
    const auto variables = count_rows(communicator, problem);
    check_count(target.count.value_or(1), variables);
    if (target.lambda && !(*target.lambda > 0.0 && std::isfinite(*target.lambda)))
        throw usage_error("--lambda", "a number above 0", std::to_string(*target.lambda), "Give another --lambda.");
    check_room(room_of(communicator, problem, problem.group, problem.row.size()), target.count);
    WeightDual dual(sums, problem);
    Weights weights;
    if (target.lambda) {
        weights = to_weights(problem, dual.maximise(dual.origin(), *target.lambda));
    } else if (const double of_curvature = dual.trace(); of_curvature > 0.0) {
        const auto form = closed_form(sums, problem.influence, *target.count, variables);
        weights = second_order(sums, problem, dual, *target.count,
                               form.excess / problem.total() + of_curvature / static_cast<double>(variables));
    } else {
        weights = first_order(sums, problem, dual, *target.count, variables);
    }
    weights.report.iterations += dual.newton_steps();
    weights.report.clipped =
        std::count_if(problem.curvature.begin(), problem.curvature.end(), [](double c) { return c < 0.0; });
    return weights;
}

Weights solve_second_order(comm::Communicator& communicator, WeightedProblem problem, const WeightedTarget& target,
                           std::optional<double> learning_rate) {
    const auto whole_curvature = problem.curvature;
    const BlockSums sums(communicator, problem.block_rows, problem.row);
    std::int64_t iterations = 0;
    const auto solve_at = [&](double eta) {
        for (double& curvature : problem.curvature) curvature *= eta;
        auto weights = solve_weights(communicator, problem, target);
        problem.curvature = whole_curvature;
        weights.report.learning_rate = eta;
        iterations += weights.report.iterations;
        return weights;
    };
    if (learning_rate) {
        const auto& offset = problem.offset;
        for (std::size_t i = 0; i < offset.size(); ++i) problem.influence[i] -= *learning_rate * offset[i];
        auto weights = solve_at(*learning_rate);
        for (std::size_t i = 0; i < offset.size(); ++i) problem.influence[i] += *learning_rate * offset[i];
        const auto step = best_step(sums, problem, weights);
        weights.report.best_learning_rate = step.learning_rate;
        weights.report.mean_influence = step.influence / problem.total();
        return weights;
    }
    auto weights = solve_at(0.0);
    auto step = best_step(sums, problem, weights);
    for (bool worthwhile = step.gain > 0.0; worthwhile;) {
        auto next = solve_at(step.learning_rate);
        const auto longer = best_step(sums, problem, next);
        if (longer.gain < step.gain) break;
        worthwhile = longer.gain > worthwhile_gain * step.gain;
        weights = std::move(next);
        step = longer;
    }
    weights.report.mean_influence = step.influence / problem.total();
    weights.report.iterations = iterations;
    return weights;
}

Weights equal_weights(comm::Communicator& communicator, const WeightedProblem& problem, std::int64_t count) {
    check_sizes(problem);
    const BlockSums sums(communicator, problem.block_rows, problem.row);
    check_count(count, count_rows(communicator, problem));
    const auto room = room_of(communicator, problem, problem.group, problem.row.size());
    check_room(room, count);
    const auto open = within_shares(communicator, problem, room, count);
    Weights weights;
    for (const auto place : largest_places(communicator, problem.influence, open, count))
        weights.row.push_back(problem.row[place]);
    weights.weight.assign(weights.row.size(), room.total / static_cast<double>(count));
    weights.report.threshold = nth_largest(communicator, values_at(problem.influence, open), count);
    weights.report.support = weights.report.reachable = count;
    weights.report.objective = linear_objective(sums, problem, weights);
    keeps_limits(sums, problem, weights);
    return weights;
}

}  // namespace idistill::selection
