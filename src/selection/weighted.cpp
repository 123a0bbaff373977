#include "idistill/selection/weighted.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "block_sums.hpp"
#include "closed_form.hpp"
#include "idistill/base/error.hpp"
#include "order_statistics.hpp"
#include "weight_dual.hpp"
#include "weight_search.hpp"

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
    WeightedProblem part{problem.pool_rows, problem.block_rows, {}, {}, {}, problem.curvature, problem.largest, {},
                         problem.group_most};
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

WeightLimits limits_of(const WeightedProblem& problem) {
    return {static_cast<double>(problem.pool_rows), problem.largest, problem.group, problem.group_most};
}

DualRows dual_rows(const WeightedProblem& problem) {
    DualRows rows{limits_of(problem), problem.influence, problem.factor, {}};
    for (const double curvature : problem.curvature)
        rows.scale.push_back(std::sqrt(std::max(0.0, curvature) / rows.limits.total));
    return rows;
}

DualPoint origin_of(const WeightedProblem& problem) {
    DualPoint origin;
    origin.x.assign(problem.curvature.size(), 0.0);
    return origin;
}

Weights to_weights(const WeightedProblem& problem, const DualPoint& point, double lambda) {
    Weights weights;
    for (const auto place : point.active) weights.row.push_back(problem.row[place]);
    weights.weight = point.weight;
    weights.report.lambda = lambda;
    weights.report.threshold = point.threshold;
    weights.report.support = weights.report.reachable = point.support;
    weights.report.objective = point.objective;
    weights.report.gap = point.gap;
    weights.report.largest = point.largest;
    for (std::size_t g = 0; g < point.full.size(); ++g)
        if (point.full[g]) weights.report.full.push_back(static_cast<std::int32_t>(g));
    return weights;
}

/// sum over all rows of all columns that count of curvature / N * F^2: the trace of eta Q.
double trace(const BlockSums& sums, const DualRows& rows) {
    double total = 0.0;
    const std::size_t width = rows.scale.size();
    sums(
        [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
            for (std::size_t i = begin * width; i < end * width; ++i) {
                const double entry = rows.scale[i % width] * static_cast<double>(rows.factor[i]);
                of_block[0] += entry * entry;
            }
        },
        std::span(&total, 1));
    return total;
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
    std::vector<double> found(groups + 2);  // weight of every group, rows at the largest weight, rows above it
    sums(
        [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
            for (std::size_t i = begin; i < end; ++i) {
                if (groups > 0 && problem.group[i] >= 0)
                    of_block[static_cast<std::size_t>(problem.group[i])] += of_row[i];
                of_block[groups] += of_row[i] >= (1.0 - tolerance) * problem.largest ? 1.0 : 0.0;
                of_block[groups + 1] += of_row[i] > (1.0 + tolerance) * problem.largest ? 1.0 : 0.0;
            }
        },
        found);
    bool kept = found[groups + 1] == 0.0;
    for (std::size_t g = 0; g < groups; ++g) {
        if (found[g] >= (1.0 - tolerance) * problem.group_most[g])
            weights.report.full.push_back(static_cast<std::int32_t>(g));
        kept = kept && found[g] <= (1.0 + tolerance) * problem.group_most[g];
    }
    weights.report.largest = static_cast<std::int64_t>(found[groups]);
    return kept;
}

Weights first_order(const BlockSums& sums, const WeightedProblem& problem, std::int64_t k, std::int64_t rows) {
    const auto form = closed_form(sums, problem.influence, k, rows);
    auto weights = closed_form_weights(sums, problem, form);
    if (keeps_limits(sums, problem, weights)) return weights;
    // Where all p are equal, so are the weights for every lambda, but for limits.
    const double lambda = weights.report.lambda > 0.0 ? weights.report.lambda : 1.0;
    WeightDual dual(sums, dual_rows(problem));
    const auto solved = nearest_support(dual, lambda, k, rows, origin_of(problem));
    return to_weights(problem, solved.point, solved.lambda);
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
    auto limits = limits_of(problem);
    limits.group = group;
    const auto room = room_for_weights(communicator, limits, point.active.size());
    const auto fewest = room.fewest().value_or(room.rows);
    const auto members = members_of(group, point.active.size(), room.group_most.size());
    auto values = point.weight;
    for (std::size_t g = 0; g < members.size(); ++g)
        for (const auto place : largest_places(communicator, point.weight, members[g], fewest[g]))
            values[place] += 2.0 * limits.total;  // above every weight
    return largest_places(communicator, values,
                          std::max(k, std::accumulate(fewest.begin(), fewest.end(), std::int64_t{0})));
}

/// k weights at least, cut to the k largest and solved again.
Weights second_order(const BlockSums& sums, const WeightedProblem& problem, std::int64_t k, double lambda) {
    std::int64_t iterations = 0;
    WeightDual dual(sums, dual_rows(problem));
    const auto best = smallest_support(dual, lambda, k, origin_of(problem), iterations);
    auto weights = to_weights(problem, best.point, best.lambda);
    if (best.point.support > k) {
        std::vector<std::size_t> kept;
        for (const auto a : places_to_keep(sums, problem, best.point, k)) kept.push_back(best.point.active[a]);
        const auto part = restricted(problem, kept);
        const BlockSums of_part(sums.communicator(), part.block_rows, part.row);
        WeightDual cut(of_part, dual_rows(part));
        const auto solved =
            smallest_support(cut, best.lambda, count_rows(sums.communicator(), part), best.point, iterations);
        weights = to_weights(part, solved.point, solved.lambda);
        weights.report.reachable = best.point.support;
    }
    weights.report.iterations = iterations;
    return weights;
}

Weights at_lambda(const BlockSums& sums, const WeightedProblem& problem, double lambda) {
    std::int64_t iterations = 0;
    WeightDual dual(sums, dual_rows(problem));
    auto weights = to_weights(problem, dual.maximise(origin_of(problem), lambda, iterations), lambda);
    weights.report.iterations = iterations;
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
    std::vector<double> products(1 + width, 0.0);  // influence.w, F'w
    sums(
        [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
            for (std::size_t i = begin; i < end; ++i) {
                if (of_row[i] == 0.0) continue;
                of_block[0] += of_row[i] * problem.influence[i];
                for (std::size_t c = 0; c < width; ++c)
                    of_block[1 + c] += of_row[i] * static_cast<double>(problem.factor[i * width + c]);
            }
        },
        products);
    double curved = 0.0;
    for (std::size_t c = 0; c < width; ++c)
        curved += std::max(0.0, problem.curvature[c]) / static_cast<double>(problem.pool_rows) * products[1 + c] *
                  products[1 + c];
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

BlockedRows blocked_shard(std::int64_t pool_rows, std::int64_t block_rows, int rank, int size) {
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
    check_room(room_for_weights(communicator, limits_of(problem), problem.row.size()), target.count);
    Weights weights;
    if (target.lambda) {
        weights = at_lambda(sums, problem, *target.lambda);
    } else if (const double of_curvature = trace(sums, dual_rows(problem)); !(of_curvature > 0.0)) {
        weights = first_order(sums, problem, *target.count, variables);
    } else {
        const auto form = closed_form(sums, problem.influence, *target.count, variables);
        weights = second_order(
            sums, problem, *target.count,
            form.excess / static_cast<double>(problem.pool_rows) + of_curvature / static_cast<double>(variables));
    }
    weights.report.clipped =
        std::count_if(problem.curvature.begin(), problem.curvature.end(), [](double c) { return c < 0.0; });
    return weights;
}

Weights solve_second_order(comm::Communicator& communicator, WeightedProblem problem, std::span<const double> offset,
                           const WeightedTarget& target, std::optional<double> learning_rate) {
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
        for (std::size_t i = 0; i < offset.size(); ++i) problem.influence[i] -= *learning_rate * offset[i];
        auto weights = solve_at(*learning_rate);
        for (std::size_t i = 0; i < offset.size(); ++i) problem.influence[i] += *learning_rate * offset[i];
        const auto step = best_step(sums, problem, weights);
        weights.report.best_learning_rate = step.learning_rate;
        weights.report.mean_influence = step.influence / static_cast<double>(problem.pool_rows);
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
    weights.report.mean_influence = step.influence / static_cast<double>(problem.pool_rows);
    weights.report.iterations = iterations;
    return weights;
}

Weights equal_weights(comm::Communicator& communicator, const WeightedProblem& problem, std::int64_t count) {
    check_sizes(problem);
    const BlockSums sums(communicator, problem.block_rows, problem.row);
    check_count(count, count_rows(communicator, problem));
    const auto room = room_for_weights(communicator, limits_of(problem), problem.row.size());
    check_room(room, count);
    const auto open = within_shares(communicator, problem, room, count);
    Weights weights;
    for (const auto place : largest_places(communicator, problem.influence, open, count))
        weights.row.push_back(problem.row[place]);
    weights.weight.assign(weights.row.size(), room.total / static_cast<double>(count));
    weights.report.threshold = nth_largest(communicator, values_at(problem.influence, open), count);
    weights.report.support = weights.report.reachable = count;
    weights.report.objective = linear_objective(sums, problem, weights, 0.0);
    keeps_limits(sums, problem, weights);
    return weights;
}

}  // namespace idistill::selection
