// The learning rate that is found with the weights, against the same steps taken with the reference solver.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <optional>

#include "weighted_cases.hpp"
#include "weighted_reference.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

/// As with the Fisher: p is the mean over the columns of the factor, which are not far from alike.
WeightedProblem fisher_problem(unsigned seed, std::int64_t pool_rows, std::vector<double> curvature) {
    auto problem = random_problem(seed, pool_rows, std::move(curvature));
    const std::size_t width = problem.curvature.size();
    for (std::size_t i = 0; i < problem.row.size(); ++i) {
        double mean = 0.0;
        for (std::size_t t = 0; t < width; ++t) {
            auto& entry = problem.factor[i * width + t];
            entry += static_cast<float>(6.0 * problem.influence[i]);
            mean += static_cast<double>(entry) / static_cast<double>(width);
        }
        problem.influence[i] = mean;
    }
    return problem;
}

/// What p is less by at eta = 1: so much times the first column of the factor.
std::vector<double> offset_of(const WeightedProblem& problem, double size) {
    std::vector<double> offset;
    for (std::size_t i = 0; size != 0.0 && i < problem.row.size(); ++i)
        offset.push_back(size * static_cast<double>(problem.factor[i * problem.curvature.size()]));
    return offset;
}

Weights second_order(const WeightedProblem& problem, double offset, const WeightedTarget& target,
                     std::optional<double> learning_rate = {}) {
    return solved(problem, [&](comm::Communicator& communicator, WeightedProblem share) {
        share.offset = offset_of(share, offset);
        return selection::solve_second_order(communicator, std::move(share), target, learning_rate);
    });
}

/// The problem of one learning rate.
WeightedProblem at_rate(WeightedProblem problem, double offset, double learning_rate) {
    const auto less = offset_of(problem, offset);
    for (std::size_t i = 0; i < less.size(); ++i) problem.influence[i] -= learning_rate * less[i];
    for (double& curvature : problem.curvature) curvature *= learning_rate;
    return problem;
}

struct Step {
    double learning_rate = 0.0, gain = 0.0;
};

/// That gains most along these weights.
Step best_step(const WeightedProblem& problem, const std::vector<double>& w) {
    const auto q = dense_curvature(problem);
    Number gain = 0.0L, curved = 0.0L;
    for (std::size_t i = 0; i < w.size(); ++i) {
        gain += static_cast<Number>(w[i] * problem.influence[i]);
        for (std::size_t j = 0; j < w.size(); ++j) curved += q[i * w.size() + j] * static_cast<Number>(w[i] * w[j]);
    }
    return {static_cast<double>(gain / curved), static_cast<double>(gain * gain / curved / 2.0L)};
}

/// As documented, with `solve` for the weights of one learning rate.
struct Taken {
    std::vector<double> weight;
    double learning_rate = 0.0;
    int steps = 0;           ///< taken
    bool went_back = false;  ///< the last one gained less than the one before
};
template <class Solve>
Taken steps_taken(const WeightedProblem& problem, Solve&& solve) {
    Taken taken{solve(at_rate(problem, 0.0, 0.0))};
    for (auto step = best_step(problem, taken.weight);;) {
        const auto next = solve(at_rate(problem, 0.0, step.learning_rate));
        const auto longer = best_step(problem, next);
        taken.went_back = longer.gain < step.gain;
        if (taken.went_back) return taken;
        ++taken.steps;
        taken.weight = next;
        taken.learning_rate = step.learning_rate;
        if (longer.gain <= 1.1 * step.gain) return taken;
        step = longer;
    }
}

void check_taken(const WeightedProblem& problem, const Weights& found, const Taken& expected) {
    BOOST_TEST(std::abs(found.report.learning_rate - expected.learning_rate) <= 1e-9 * expected.learning_rate);
    check_close(dense(problem, found), expected.weight);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(selection_best_step)

BOOST_AUTO_TEST_CASE(steps_are_taken_while_they_gain_a_tenth_more) {
    int taken = 0;
    for (unsigned seed = 1; seed <= 8; ++seed) {
        const auto problem = fisher_problem(seed, 9, {2.0, 0.5, 7.0});
        for (const double lambda : {0.03, 3.0}) {
            const auto expected =
                steps_taken(problem, [&](const WeightedProblem& own) { return by_enumeration(own, lambda); });
            taken += expected.steps;
            check_taken(problem, second_order(problem, 0.0, strength(lambda)), expected);
        }
    }
    BOOST_TEST(taken > 16);  // more than one each
}

BOOST_AUTO_TEST_CASE(a_step_that_gains_less_is_not_taken) {
    int back = 0;
    for (unsigned seed = 13; seed <= 17; ++seed) {  // among them some whose last step gains less
        const auto problem = fisher_problem(seed, 30, {2.0, 0.5, 7.0, 0.1});
        for (const std::int64_t k : {2, 3, 5}) {
            const auto expected = steps_taken(
                problem, [&](const WeightedProblem& own) { return dense(own, solve_on(own, 1, to_target(count(k)))); });
            back += expected.went_back ? 1 : 0;
            check_taken(problem, second_order(problem, 0.0, count(k)), expected);
        }
    }
    BOOST_TEST(back > 0);
}

BOOST_AUTO_TEST_CASE(a_given_learning_rate_is_compared_with_the_best_step) {
    const auto problem = fisher_problem(4, 9, {2.0, 0.5, 7.0});
    for (const double rate : {0.01, 0.7, 50.0}) {
        const auto expected = by_enumeration(at_rate(problem, 0.0, rate), 0.3);
        const auto found = second_order(problem, 0.0, strength(0.3), rate);
        check_close(dense(problem, found), expected);
        const double best = std::max(0.0, best_step(problem, expected).learning_rate);
        BOOST_TEST(std::abs(found.report.best_learning_rate - best) <= 1e-9 * best);
        BOOST_TEST(found.report.learning_rate == rate);
        for (const double offset : {0.05, -0.3}) {
            const auto moved = second_order(problem, offset, strength(0.3), rate);
            check_close(dense(problem, moved), by_enumeration(at_rate(problem, offset, rate), 0.3));
        }
    }
    const auto flat = second_order(fisher_problem(4, 9, {0.0, -1.0}), 0.0, strength(0.3), 5.0);
    BOOST_TEST(std::isinf(flat.report.best_learning_rate));
}

BOOST_AUTO_TEST_CASE(a_number_of_samples_is_met) {
    const auto problem = fisher_problem(3, 60, {1.0, 0.1, 3.0, 0.02});
    const auto found = second_order(problem, 0.0, count(12));
    const double rate = found.report.learning_rate;
    BOOST_TEST((found.report.support == 12 && rate > 0.0));
    const auto given = solved(at_rate(problem, 0.0, rate), count(12));
    BOOST_TEST(given.row == found.row, boost::test_tools::per_element());
    BOOST_TEST(given.weight == found.weight, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(where_no_step_is_best_weights_are_of_first_order) {
    auto problem = random_problem(5, 20, {1.0, 2.0});
    auto flat = problem;
    flat.curvature = {0.0, -1.0};
    for (double& p : problem.influence) p -= 10.0;  // nothing to gain
    for (const auto& own : {problem, flat}) {
        const auto found = second_order(own, 0.0, count(5));
        BOOST_TEST(found.report.learning_rate == 0.0);
        auto first = own;
        for (double& curvature : first.curvature) curvature = 0.0;
        BOOST_TEST(found.weight == solved(first, count(5)).weight, boost::test_tools::per_element());
    }
}

BOOST_AUTO_TEST_SUITE_END()
