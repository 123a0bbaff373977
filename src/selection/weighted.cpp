#include "idistill/selection/weighted.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "block_sums.hpp"
#include "idistill/report/error.hpp"
#include "order_statistics.hpp"
#include "weight_dual.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t most_blocks = 1024;
constexpr std::int64_t least_block_rows = 1024;
constexpr double lambda_range = 1e-6;  // how far below its start lambda is searched
constexpr int most_refinements = 60;

Error usage_error(const std::string& field, const std::string& expected, const std::string& found,
                  const std::string& remedy) {
    return {ExitCode::usage, {"weights", field, expected, found, remedy}};
}

void check_sizes(const WeightedProblem& problem) {
    const bool fits = problem.block_rows > 0 && problem.influence.size() == problem.row.size() &&
                      problem.factor.size() == problem.row.size() * problem.curvature.size();
    if (!fits) throw Error(ExitCode::internal_error, {"weights", "sizes", "n, n and n x r", "others", ""});
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
    WeightedProblem part{problem.pool_rows, problem.block_rows, {}, {}, {}, problem.curvature};
    const std::size_t width = problem.curvature.size();
    for (const auto place : places) {
        part.row.push_back(problem.row[place]);
        part.influence.push_back(problem.influence[place]);
        const auto first = problem.factor.begin() + static_cast<std::ptrdiff_t>(place * width);
        part.factor.insert(part.factor.end(), first, first + static_cast<std::ptrdiff_t>(width));
    }
    return part;
}

DualRows dual_rows(const WeightedProblem& problem) {
    const auto total = static_cast<double>(problem.pool_rows);
    DualRows rows{total, problem.influence, problem.factor, {}};
    for (const double curvature : problem.curvature) rows.scale.push_back(std::sqrt(std::max(0.0, curvature) / total));
    return rows;
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

/// Rows of largest p that can have weight without the others: k, or where p is tied there, the nearest other count.
std::int64_t reachable_count(comm::Communicator& communicator, std::span<const double> influence, std::int64_t k) {
    const auto around = count_above(communicator, influence, nth_largest(communicator, influence, k));
    const bool lower = around.strictly > 0 && k - around.strictly <= around.at_least - k;
    return around.at_least == k || !lower ? around.at_least : around.strictly;
}

/// The closed form of METHOD.md section 1.
struct ClosedForm {
    double threshold = 0.0;
    double excess = 0.0;  ///< sum of p - threshold over the rows above it: N lambda; 0 where all p are equal
};

ClosedForm closed_form(const BlockSums& sums, std::span<const double> influence, std::int64_t count,
                       std::int64_t variables) {
    auto& communicator = sums.communicator();
    ClosedForm form;
    if (count < variables) {
        form.threshold = nth_largest(communicator, influence, count + 1);
    } else {
        const double lowest = nth_largest(communicator, influence, variables);
        form.threshold = lowest - (sums.sum(influence) / static_cast<double>(variables) - lowest);
        if (nth_largest(communicator, influence, 1) == lowest) form.threshold = lowest;
    }
    std::vector<double> above(influence.size());
    std::transform(influence.begin(), influence.end(), above.begin(),
                   [&](double p) { return std::max(0.0, p - form.threshold); });
    form.excess = sums.sum(above);
    return form;
}

/// Objective of first order for weights on these places, which are all above 0.
double linear_objective(const BlockSums& sums, const WeightedProblem& problem, const Weights& weights, double lambda) {
    std::vector<double> terms(problem.row.size(), 0.0);
    std::size_t next = 0;
    for (std::size_t i = 0; i < terms.size() && next < weights.row.size(); ++i) {
        if (problem.row[i] != weights.row[next]) continue;
        const double weight = weights.weight[next++];
        terms[i] = 0.5 * lambda * weight * weight - problem.influence[i] * weight;
    }
    return sums.sum(terms);
}

Weights first_order(const BlockSums& sums, const WeightedProblem& problem, std::int64_t k, std::int64_t variables) {
    const auto total = static_cast<double>(problem.pool_rows);
    const auto count = reachable_count(sums.communicator(), problem.influence, k);
    const auto form = closed_form(sums, problem.influence, count, variables);
    Weights weights;
    for (std::size_t i = 0; i < problem.row.size(); ++i) {
        const double above = problem.influence[i] - form.threshold;
        if (form.excess > 0.0 && !(above > 0.0)) continue;
        weights.row.push_back(problem.row[i]);
        weights.weight.push_back(form.excess > 0.0 ? total * (above / form.excess)
                                                   : total / static_cast<double>(count));
    }
    weights.report.lambda = form.excess / total;
    weights.report.threshold = form.threshold;
    weights.report.support = weights.report.reachable = count;
    weights.report.objective = linear_objective(sums, problem, weights, weights.report.lambda);
    return weights;
}

/// A solution for one lambda.
struct Solved {
    double lambda = 0.0;
    DualPoint point;
};

/// The next lambda between one that gives too few and one that gives enough: where log support, a straight line between
/// the two, meets log k, kept away from the ends; every third time the middle.
double between(const Solved& few, const Solved& enough, std::int64_t k, int turn) {
    const auto log_support = [](const Solved& solved) { return std::log(static_cast<double>(solved.point.support)); };
    const double low = log_support(few);
    const double part = (std::log(static_cast<double>(k)) - low) / (log_support(enough) - low);
    const double kept = turn % 3 == 2 ? 0.5 : std::clamp(part, 0.02, 0.98);
    return std::exp(std::log(few.lambda) + kept * (std::log(enough.lambda) - std::log(few.lambda)));
}

/// The smallest support of at least k that was met while lambda was searched, from `lambda` and the solution `near` on;
/// of equal ones that of the larger lambda.
Solved smallest_support(WeightDual& dual, double lambda, std::int64_t k, const DualPoint& near,
                        std::int64_t& iterations) {
    const auto solve = [&](double at, const DualPoint& start) {
        return Solved{at, dual.maximise(start, at, iterations)};
    };
    Solved few = solve(lambda, near);
    Solved enough = few;
    for (double factor = 4.0; enough.point.support < k; factor *= 2.0) {  // ever larger: all rows have weight
        few = std::move(enough);
        enough = solve(few.lambda * factor, few.point);
    }
    Solved best = enough;
    const auto keep = [&](const Solved& solved) {
        if (solved.point.support >= k && solved.point.support < best.point.support) best = solved;
    };
    while (few.point.support >= k && best.point.support > k && few.lambda > lambda * lambda_range) {
        enough = few;
        few = solve(few.lambda / 4.0, few.point);
        keep(few);
    }
    for (int turn = 0; turn < most_refinements && few.point.support < k && best.point.support > k; ++turn) {
        if (enough.lambda / few.lambda < 1.0 + 1e-12) break;
        auto middle = solve(between(few, enough, k, turn), enough.point);
        keep(middle);
        (middle.point.support >= k ? enough : few) = std::move(middle);
    }
    return best;
}

/// k weights at least, cut to the k largest and solved again.
Weights second_order(const BlockSums& sums, const WeightedProblem& problem, std::int64_t k, double lambda) {
    DualPoint origin;
    origin.x.assign(problem.curvature.size(), 0.0);
    std::int64_t iterations = 0;
    WeightDual dual(sums, dual_rows(problem));
    const auto best = smallest_support(dual, lambda, k, origin, iterations);
    auto weights = to_weights(problem, best.point, best.lambda);
    if (best.point.support > k) {
        std::vector<std::size_t> kept;
        for (const auto place : largest_places(sums.communicator(), best.point.weight, k))
            kept.push_back(best.point.active[place]);
        const auto part = restricted(problem, kept);
        const BlockSums of_part(sums.communicator(), part.block_rows, part.row);
        WeightDual cut(of_part, dual_rows(part));
        const auto solved = smallest_support(cut, best.lambda, k, best.point, iterations);
        weights = to_weights(part, solved.point, solved.lambda);
        weights.report.reachable = best.point.support;
    }
    weights.report.iterations = iterations;
    return weights;
}

Weights at_lambda(const BlockSums& sums, const WeightedProblem& problem, double lambda) {
    DualPoint origin;
    origin.x.assign(problem.curvature.size(), 0.0);
    std::int64_t iterations = 0;
    WeightDual dual(sums, dual_rows(problem));
    auto weights = to_weights(problem, dual.maximise(origin, lambda, iterations), lambda);
    weights.report.iterations = iterations;
    return weights;
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
    Weights weights;
    if (target.lambda) {
        weights = at_lambda(sums, problem, *target.lambda);
    } else if (const double of_curvature = trace(sums, dual_rows(problem)); !(of_curvature > 0.0)) {
        weights = first_order(sums, problem, *target.count, variables);
    } else {
        const auto count = reachable_count(communicator, problem.influence, *target.count);
        const auto form = closed_form(sums, problem.influence, count, variables);
        weights = second_order(
            sums, problem, *target.count,
            form.excess / static_cast<double>(problem.pool_rows) + of_curvature / static_cast<double>(variables));
    }
    weights.report.clipped =
        std::count_if(problem.curvature.begin(), problem.curvature.end(), [](double c) { return c < 0.0; });
    return weights;
}

Weights equal_weights(comm::Communicator& communicator, const WeightedProblem& problem, std::int64_t count) {
    check_sizes(problem);
    const BlockSums sums(communicator, problem.block_rows, problem.row);
    check_count(count, count_rows(communicator, problem));
    Weights weights;
    for (const auto place : largest_places(communicator, problem.influence, count))
        weights.row.push_back(problem.row[place]);
    weights.weight.assign(weights.row.size(), static_cast<double>(problem.pool_rows) / static_cast<double>(count));
    weights.report.threshold = nth_largest(communicator, problem.influence, count);
    weights.report.support = weights.report.reachable = count;
    weights.report.objective = linear_objective(sums, problem, weights, 0.0);
    return weights;
}

}  // namespace idistill::selection
