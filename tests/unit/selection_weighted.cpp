// Optimal weights against enumeration of all supports in long double and against the optimality conditions, at several
// rank counts.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>

#include "figures.hpp"
#include "idistill/base/error.hpp"
#include "idistill/comm/thread_group.hpp"
#include "weighted_cases.hpp"
#include "weighted_reference.hpp"

using namespace idistill;
using namespace idistill::test;

BOOST_AUTO_TEST_SUITE(selection_weighted)

BOOST_AUTO_TEST_CASE(shards_are_whole_blocks_and_cover_the_pool) {
    for (const std::int64_t rows : {1, 4, 5, 1000}) {
        for (const int size : {1, 2, 3, 7}) {
            std::int64_t next = 0;
            for (int rank = 0; rank < size; ++rank) {
                const auto mine = selection::blocked_shard(rows, 4, rank, size);
                BOOST_TEST(mine.first == next);
                BOOST_TEST((mine.first % 4 == 0 || mine.count == 0));
                next += mine.count;
            }
            BOOST_TEST(next == rows);
        }
    }
    BOOST_TEST(selection::weight_block_rows(5) == 1024);
    BOOST_TEST(selection::weight_block_rows(10'000'000) == 9766);
}

BOOST_AUTO_TEST_CASE(the_minimiser_is_the_best_of_all_supports) {
    for (unsigned seed = 1; seed <= 12; ++seed) {
        const auto problem = random_problem(seed, 9, {2.0, 0.5, 7.0}, seed % 3 == 0 ? 0.2 : 0.0);
        for (const double lambda : {1e-3, 0.03, 10.0}) {
            const auto found = solved(problem, strength(lambda));
            const auto w = dense(problem, found);
            check_close(w, by_enumeration(problem, lambda));
            BOOST_TEST(std::abs(found.report.objective - static_cast<double>(objective(problem, w, lambda))) < 1e-12);
            BOOST_TEST(violation(problem, found) < 1e-9);
        }
    }
}

BOOST_AUTO_TEST_CASE(optimality_conditions_hold_for_larger_problems) {
    for (const double scale : {1e-3, 1.0, 1e4}) {
        auto problem = random_problem(7, 400, {1.0, 0.1, 3.0, 0.02, 0.5, 1.0}, 0.1);
        for (double& curvature : problem.curvature) curvature *= scale;
        for (const double lambda : {1e-5, 1e-3, 0.1}) {
            const auto found = solved(problem, strength(lambda));
            BOOST_TEST(violation(problem, found) < 1e-8, "lambda " << lambda << ", curvature times " << scale);
            BOOST_TEST(found.report.gap < 1e-12 * (1.0 + std::abs(found.report.objective)));
            BOOST_TEST(found.report.iterations < 60);
        }
    }
}

BOOST_AUTO_TEST_CASE(first_order_has_exactly_k_weights_for_every_k) {
    const auto problem = random_problem(3, 40, {}, 0.2);
    auto sorted = problem.influence;
    std::sort(sorted.rbegin(), sorted.rend());
    const auto n = problem.row.size();
    for (std::size_t k = 1; k <= n; ++k) {
        const auto found = solved(problem, count(static_cast<std::int64_t>(k)));
        BOOST_TEST_REQUIRE(found.row.size() == k);
        const double mean = std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(n);
        const double threshold = k < n ? sorted[k] : sorted[n - 1] - (mean - sorted[n - 1]);
        double lambda = 0.0;
        for (std::size_t i = 0; i < k; ++i) lambda += (sorted[i] - threshold) / 40.0;
        const auto w = dense(problem, found);
        for (std::size_t i = 0; i < n; ++i) {
            const double expected = std::max(0.0, (problem.influence[i] - threshold) / lambda);
            BOOST_TEST(std::abs(w[i] - expected) < 1e-11 * 40.0);
        }
        BOOST_TEST(std::abs(found.report.lambda / lambda - 1.0) < 1e-12);
        BOOST_TEST(violation(problem, found) < 1e-12);
        BOOST_TEST(std::abs(found.report.objective - static_cast<double>(objective(problem, w, found.report.lambda))) <
                   1e-11);
    }
}

BOOST_AUTO_TEST_CASE(ties_at_the_boundary_take_the_nearest_count) {
    const auto problem = linear({1.0, 0.5, 0.5, 0.5, 0.5, 0.2, 0.5, 0.1});  // 1, then five times 0.5
    const std::vector<std::int64_t> reached{1, 1, 1, 6, 6, 6, 7, 8};        // 3 is nearer to 1, 4 to 6
    for (std::int64_t k = 1; k <= 8; ++k) {
        const auto found = solved(problem, count(k));
        BOOST_TEST(found.report.support == reached[static_cast<std::size_t>(k) - 1], "k = " << k);
        const auto w = dense(problem, found);
        for (const std::size_t i : {2U, 3U, 4U, 6U}) BOOST_TEST(w[i] == w[1]);
        BOOST_TEST(violation(problem, found) < 1e-12);
    }
    const auto even = linear({1.0, 0.5, 0.5, 0.1});  // 2 is as near to 1 as to 3: the lower
    BOOST_TEST(solved(even, count(2)).report.support == 1);
    const auto top = linear({0.5, 0.1, -0.0, 0.5, 0.0});  // nothing below two to go to
    BOOST_TEST(solved(top, count(1)).report.support == 2);
    BOOST_TEST(solved(top, count(4)).report.support == 3);  // 0 and -0 are tied
}

BOOST_AUTO_TEST_CASE(equal_influence_gives_equal_weights) {
    auto problem = linear(std::vector<double>(7, -0.3));
    problem.pool_rows = 10;  // three rows are no variables
    for (const std::int64_t k : {1, 4, 7}) {
        const auto found = solved(problem, count(k));
        BOOST_TEST(found.weight == std::vector<double>(7, 10.0 / 7.0), boost::test_tools::per_element());
        BOOST_TEST(found.report.lambda == 0.0);
    }
    check_close(solved(problem, strength(2.0)).weight, std::vector<double>(7, 10.0 / 7.0));
    check_close(solved(problem, strength(1e-30)).weight, std::vector<double>(7, 10.0 / 7.0));
}

BOOST_AUTO_TEST_CASE(negative_influence_is_no_obstacle) {
    auto problem = random_problem(5, 30, {1.0, 2.0});
    for (double& p : problem.influence) p = -1.0 - std::abs(p);
    BOOST_TEST(violation(problem, solved(problem, strength(0.01))) < 1e-9);
    const auto found = solved(problem, count(6));
    BOOST_TEST(found.report.support == 6);
    BOOST_TEST(violation(of_support(problem, found), found) < 1e-9);
}

BOOST_AUTO_TEST_CASE(second_order_reaches_every_k) {
    for (unsigned seed = 1; seed <= 4; ++seed) {
        const auto problem = random_problem(seed, 60, {3.0, 1.0, 0.2, 0.0}, 0.1);
        const auto n = std::ssize(problem.row);
        for (const std::int64_t k : {std::int64_t{1}, std::int64_t{2}, std::int64_t{7}, std::int64_t{30}, n - 1, n}) {
            const auto found = solved(problem, count(k));
            BOOST_TEST(found.report.reachable >= k);
            BOOST_TEST(found.report.support == k);
            BOOST_TEST(found.report.lambda > 0.0);
            BOOST_TEST(violation(of_support(problem, found), found) < 1e-8, "k = " << k);
            if (found.report.reachable == k) {
                BOOST_TEST(violation(problem, found) < 1e-8);
                BOOST_TEST(solved(problem, strength(found.report.lambda)).report.support == k);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(the_smallest_support_of_a_fine_grid_is_not_smaller) {
    const auto problem = random_problem(11, 60, {3.0, 1.0, 0.2});
    for (const std::int64_t k : {5, 12, 25, 40}) {
        const auto found = solved(problem, count(k));
        std::int64_t smallest = 60;
        for (double lambda = 1e-5; lambda < 10.0; lambda *= 1.02) {
            const auto support = solve_on(problem, 1, [&](comm::Communicator& communicator, const WeightedProblem& p) {
                                     return solve_weights(communicator, p, strength(lambda));
                                 }).report.support;
            if (support >= k) smallest = std::min(smallest, support);
        }
        BOOST_TEST(found.report.reachable <= smallest);
    }
}

// p is a combination of the columns and the curvature large: the support stays wide however small lambda is.
BOOST_AUTO_TEST_CASE(an_unreachable_k_is_cut) {
    auto problem = random_problem(13, 50, {1e3, 1e3});
    for (double& p : problem.influence) p = 0.25;
    const auto found = solved(problem, count(4));
    BOOST_TEST(found.report.reachable > 4);
    BOOST_TEST(found.report.support == 4);
    BOOST_TEST(violation(of_support(problem, found), found) < 1e-8);
}

BOOST_AUTO_TEST_CASE(no_curvature_is_first_order) {
    const auto first = random_problem(17, 30, {});
    auto zero_column = first;
    zero_column.curvature = {5.0};
    zero_column.factor.assign(30, 0.0F);
    auto zero_curvature = random_problem(17, 30, {0.0});
    zero_curvature.influence = first.influence;
    for (const std::int64_t k : {1, 9, 30}) {
        const auto expected = solved(first, count(k));
        for (const auto& problem : {zero_column, zero_curvature}) {
            const auto found = solved(problem, count(k));
            BOOST_TEST(found.weight == expected.weight, boost::test_tools::per_element());
            BOOST_TEST(found.report.iterations == 0);
        }
    }
}

BOOST_AUTO_TEST_CASE(a_factor_of_deficient_rank) {
    auto problem = random_problem(19, 40, {1.0, 1.0, 2.0, 1.0});
    for (std::size_t i = 0; i < 40; ++i) {  // the columns: a, 2 a, a, 0
        for (const auto& [column, times] : {std::pair{1U, 2.0F}, {2U, 1.0F}, {3U, 0.0F}})
            problem.factor[4 * i + column] = times * problem.factor[4 * i];
    }
    for (const double lambda : {1e-4, 0.1}) BOOST_TEST(violation(problem, solved(problem, strength(lambda))) < 1e-9);
    const auto found = solved(problem, count(10));
    BOOST_TEST(violation(of_support(problem, found), found) < 1e-8);
}

BOOST_AUTO_TEST_CASE(negative_curvature_is_clipped_and_counted) {
    const auto problem = random_problem(23, 40, {1.0, -3.0, 2.0, -1e-9});
    auto without = random_problem(23, 40, {1.0, 0.0, 2.0, 0.0});
    const auto found = solved(problem, strength(0.02));
    BOOST_TEST(found.report.clipped == 2);
    const auto expected = solved(without, strength(0.02));
    BOOST_TEST(expected.report.clipped == 0);
    BOOST_TEST(found.weight == expected.weight, boost::test_tools::per_element());
    const auto all_negative = random_problem(23, 40, {-1.0});
    BOOST_TEST(solved(all_negative, count(5)).report.support == 5);
}

BOOST_AUTO_TEST_CASE(lambda_zero_takes_the_k_best_equally) {
    const auto problem = linear({0.1, 0.5, 0.5, 0.9, 0.5, 0.0});
    const auto found = solved(problem, [](comm::Communicator& communicator, const WeightedProblem& share) {
        return equal_weights(communicator, share, 3);
    });
    BOOST_TEST(found.row == (std::vector<std::int64_t>{1, 2, 3}), boost::test_tools::per_element());
    BOOST_TEST(found.weight == std::vector<double>(3, 2.0), boost::test_tools::per_element());
    BOOST_TEST(std::abs(found.report.objective + 2.0 * 1.9) < 1e-15);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_solved_is_refused) {
    const auto code_of = [](const WeightedProblem& problem, const WeightedTarget& target) {
        try {
            solve_on(problem, 2, [&](comm::Communicator& communicator, const WeightedProblem& share) {
                return solve_weights(communicator, share, target);
            });
        } catch (const Error& error) {
            return error.code();
        }
        return ExitCode::ok;
    };
    const auto problem = linear({0.1, 0.2, 0.3});
    BOOST_TEST((code_of(problem, count(4)) == ExitCode::usage));
    BOOST_TEST((code_of(problem, count(0)) == ExitCode::usage));
    BOOST_TEST((code_of(problem, strength(0.0)) == ExitCode::usage));
    BOOST_TEST((code_of(problem, {}) == ExitCode::internal_error));
    auto empty = linear({});
    empty.pool_rows = 3;
    BOOST_TEST((code_of(empty, count(1)) == ExitCode::usage));
    auto unsorted = problem;
    unsorted.row = {1, 0, 2};
    BOOST_TEST((code_of(unsorted, count(1)) == ExitCode::internal_error));
}

BOOST_AUTO_TEST_CASE(influence_rows_become_a_selection_in_order_of_weight) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    RatedRows rows{{0.1F, 0.3F, 0.9F, 0.9F, nan, 5.0F, 0.4F, 0.6F, 0.5F, 0.5F, 0.0F, 0.2F},
                   2,
                   {1, 0, 1, 1, 1, 1},  // row 1 is quarantined, row 2 not finite
                   {1, 2, 4, 8, 16, 32},
                   std::vector<std::int32_t>(6, 0),
                   {"one"}};
    using selection::Order;
    comm::run_ranks_as_threads(2, [&](comm::Communicator& communicator) {
        // p: 0.2, -, -, 0.5, 0.5, 0.1
        const auto tied = selected(communicator, rows, 2, settings(Order::first, {}, {}));
        BOOST_TEST_REQUIRE(tied.picks.size() == 2U);
        BOOST_TEST(tied.picks[0].row == 3);
        BOOST_TEST(tied.picks[1].row == 4);
        BOOST_TEST(tied.picks[0].column == -1);
        BOOST_TEST(tied.tokens == 24);
        BOOST_TEST(std::abs(tied.weight[0] - 3.0) < 1e-6);
        BOOST_TEST(figure(tied, "weights_support") == 2);
        const auto spread = selected(communicator, rows, 2, settings(Order::second, 1.0, {}),
                                     {.weight = {1.0, 0.0}, .offset = {}, .dataset = {}});
        BOOST_TEST_REQUIRE(spread.picks.size() == 2U);  // the smaller first entry costs less
        BOOST_TEST(spread.weight[0] > spread.weight[1]);
        BOOST_TEST(spread.picks[0].row == 3);
        const auto equal = selected(communicator, rows, 2, settings(Order::first, {}, 0.0));
        BOOST_TEST(equal.weight == std::vector<double>(2, 3.0), boost::test_tools::per_element());
        // the second column is the factor alone: p is the first, lower by the curvature's product with the offset
        auto with_factor = rows;
        with_factor.columns = 1;
        auto hessian = settings(Order::second, 2.0, {});
        hessian.curvature = selection::Curvature::hessian;
        const auto apart =
            selected(communicator, with_factor, 2, hessian, {.weight = {0.5}, .offset = {}, .dataset = "/factor"});
        BOOST_TEST_REQUIRE(apart.picks.size() == 2U);
        BOOST_TEST(apart.picks[0].row == 4);
        BOOST_TEST(apart.picks[1].row == 3);
        const auto moved =
            selected(communicator, with_factor, 2, hessian, {.weight = {-0.5}, .offset = {10.0}, .dataset = "/factor"});
        BOOST_TEST(figure(moved, "weights_clipped") == 1);
        BOOST_TEST(moved.picks[0].row == 3);  // 0.4 + 6 against 0.5 + 5
    });
}

BOOST_AUTO_TEST_SUITE_END()
