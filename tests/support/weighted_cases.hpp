#pragma once
// Weighted problems made up for tests, and their solution by ranks that are threads.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "idistill/comm/thread_group.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/selection/settings.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::test {

using selection::WeightedProblem;
using selection::WeightedTarget;
using selection::Weights;

inline WeightedTarget count(std::int64_t k) { return {.count = k, .lambda = {}}; }
inline WeightedTarget strength(double lambda) { return {.count = {}, .lambda = lambda}; }

/// A whole problem; every rank gets its blocks. Some rows of the pool are no variables.
inline WeightedProblem random_problem(unsigned seed, std::int64_t pool_rows, std::vector<double> curvature,
                                      double left_out = 0.0) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    WeightedProblem problem;
    problem.pool_rows = pool_rows;
    problem.block_rows = 4;
    problem.curvature = std::move(curvature);
    for (std::int64_t row = 0; row < pool_rows; ++row) {
        if (std::uniform_real_distribution<double>()(random) < left_out) continue;
        problem.row.push_back(row);
        problem.influence.push_back(0.3 * normal(random) + 0.1);
        for (std::size_t t = 0; t < problem.curvature.size(); ++t)
            problem.factor.push_back(static_cast<float>(normal(random)));
    }
    return problem;
}

inline WeightedProblem linear(std::vector<double> influence) {
    WeightedProblem problem;
    problem.pool_rows = std::ssize(influence);
    problem.block_rows = 2;
    problem.row.resize(influence.size());
    std::iota(problem.row.begin(), problem.row.end(), std::int64_t{0});
    problem.influence = std::move(influence);
    return problem;
}

inline selection::WeightedSettings settings(selection::Order order, std::optional<double> learning_rate,
                                            std::optional<double> lambda) {
    selection::WeightedSettings settings;
    settings.order = order;
    settings.learning_rate = learning_rate;
    settings.lambda = lambda;
    return settings;
}

/// A pool to select from by weights.
struct RatedRows {
    std::vector<float> numbers;  ///< (rows x (columns, and the extras behind them))
    std::int64_t columns = 1;
    std::vector<std::uint8_t> eligible;
    std::vector<std::int32_t> tokens, source;
    std::vector<std::string> source_names;
};

/// What these settings select of it.
inline selection::Selection selected(comm::Communicator& communicator, const RatedRows& rows, std::int64_t samples,
                                     const selection::WeightedSettings& settings,
                                     const influence::CurvatureTerms& terms = {}) {
    options::Values values;
    values.of<selection::SelectionSettings>().member = "weighted";
    values.of<selection::WeightedSettings>() = settings;
    values.of<selection::BudgetSettings>().samples = samples;
    const std::vector<std::int32_t> column_task(static_cast<std::size_t>(rows.columns), 0);
    const auto products = std::ssize(rows.numbers) / std::ssize(rows.eligible);
    const auto read = [&](std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out) {
        for (std::int64_t row = 0; row < count; ++row)
            std::copy_n(rows.numbers.begin() + (first + row) * products, width, out.begin() + row * width);
    };
    const selection::PoolFacts pool{rows.eligible, rows.tokens, rows.source, rows.source_names, column_task, 1};
    const auto selector = selection::make_selector(values);
    return selector->choose(communicator, {rows.columns, products, false, read, [&](bool) { return terms; }}, pool,
                            selector->request(pool));
}

/// The same pool, limits and curvature.
inline WeightedProblem without_rows(WeightedProblem problem) {
    problem.row.clear();
    problem.influence.clear();
    problem.factor.clear();
    problem.group.clear();
    return problem;
}

inline WeightedProblem share_of(const WeightedProblem& whole, int rank, int size) {
    const auto mine = selection::blocked_shard(whole.pool_rows, whole.block_rows, rank, size);
    WeightedProblem share = without_rows(whole);
    const std::size_t width = whole.curvature.size();
    for (std::size_t i = 0; i < whole.row.size(); ++i) {
        if (whole.row[i] < mine.first || whole.row[i] >= mine.first + mine.count) continue;
        share.row.push_back(whole.row[i]);
        share.influence.push_back(whole.influence[i]);
        share.factor.insert(share.factor.end(), whole.factor.begin() + static_cast<std::ptrdiff_t>(i * width),
                            whole.factor.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
        if (!whole.group.empty()) share.group.push_back(whole.group[i]);
    }
    return share;
}

using Solver = std::function<Weights(comm::Communicator&, const WeightedProblem&)>;

/// The weights of all ranks together, after a check that reports agree.
inline Weights solve_on(const WeightedProblem& problem, int ranks, const Solver& solver) {
    std::vector<Weights> parts(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& communicator) {
        const auto share = share_of(problem, communicator.rank(), communicator.size());
        parts[static_cast<std::size_t>(communicator.rank())] = solver(communicator, share);
    });
    Weights all = parts[0];
    for (std::size_t rank = 1; rank < parts.size(); ++rank) {
        all.row.insert(all.row.end(), parts[rank].row.begin(), parts[rank].row.end());
        all.weight.insert(all.weight.end(), parts[rank].weight.begin(), parts[rank].weight.end());
        BOOST_TEST(parts[rank].report.objective == all.report.objective);
    }
    return all;
}

/// Solved at several rank counts, after a check that they agree bit for bit.
inline Weights solved(const WeightedProblem& problem, const Solver& solver) {
    const auto expected = solve_on(problem, 1, solver);
    for (const int ranks : {2, 3, 5}) {
        const auto found = solve_on(problem, ranks, solver);
        BOOST_TEST_REQUIRE(found.row == expected.row, boost::test_tools::per_element());
        BOOST_TEST(found.weight == expected.weight, boost::test_tools::per_element());  // exactly
        BOOST_TEST(found.report.lambda == expected.report.lambda);
        BOOST_TEST(found.report.threshold == expected.report.threshold);
        BOOST_TEST(found.report.objective == expected.report.objective);
        BOOST_TEST(found.report.gap == expected.report.gap);
        BOOST_TEST(found.report.iterations == expected.report.iterations);
        BOOST_TEST(found.report.largest == expected.report.largest);
        BOOST_TEST((found.report.full == expected.report.full));
    }
    BOOST_TEST(expected.report.support == std::ssize(expected.row));
    return expected;
}

inline Solver to_target(const WeightedTarget& target) {
    return [target](comm::Communicator& communicator, const WeightedProblem& share) {
        return solve_weights(communicator, share, target);
    };
}

inline Weights solved(const WeightedProblem& problem, const WeightedTarget& target) {
    return solved(problem, to_target(target));
}

/// Only the rows with weight: what a cut leaves.
inline WeightedProblem of_support(const WeightedProblem& problem, const Weights& weights) {
    WeightedProblem part = without_rows(problem);
    const std::size_t width = problem.curvature.size();
    for (std::size_t i = 0; i < problem.row.size(); ++i) {
        if (!std::binary_search(weights.row.begin(), weights.row.end(), problem.row[i])) continue;
        part.row.push_back(problem.row[i]);
        part.influence.push_back(problem.influence[i]);
        for (std::size_t t = 0; t < width; ++t) part.factor.push_back(problem.factor[i * width + t]);
        if (!problem.group.empty()) part.group.push_back(problem.group[i]);
    }
    return part;
}

inline void check_close(const std::vector<double>& found, const std::vector<double>& expected) {
    BOOST_TEST_REQUIRE(found.size() == expected.size());
    const double largest = *std::max_element(expected.begin(), expected.end());
    for (std::size_t i = 0; i < found.size(); ++i)
        BOOST_TEST(std::abs(found[i] - expected[i]) < 1e-9 * largest,
                   "place " << i << ": " << found[i] << ", expected " << expected[i]);
}

}  // namespace idistill::test
