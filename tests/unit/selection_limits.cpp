// Optimal weights under a largest weight and shares of groups, against enumeration of all active sets in long double
// and against the optimality conditions, at several rank counts.
#include <algorithm>
#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>

#include "error_of.hpp"
#include "figures.hpp"
#include "idistill/base/error.hpp"
#include "weighted_cases.hpp"
#include "weighted_reference.hpp"

using namespace idistill;
using namespace idistill::test;
using selection::WeightRoom;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// With a largest weight, and every third row in group 0, every third in group 1, the rest in none.
WeightedProblem limited(WeightedProblem problem, double largest, std::vector<double> shares) {
    problem.largest = largest;
    for (const double share : shares) problem.group_most.push_back(share * static_cast<double>(problem.pool_rows));
    const auto groups = static_cast<std::int64_t>(shares.size());
    for (const auto row : problem.row)
        if (groups > 0) problem.group.push_back(static_cast<std::int32_t>(row % 3 < groups ? row % 3 : -1));
    return problem;
}

double of_group(const WeightedProblem& problem, const Weights& weights, std::int32_t group) {
    const auto w = dense(problem, weights);
    double sum = 0.0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += problem.group[i] == group ? w[i] : 0.0;
    return sum;
}

double largest_of(const Weights& weights) { return *std::max_element(weights.weight.begin(), weights.weight.end()); }

double sum_of(const Weights& weights) { return std::accumulate(weights.weight.begin(), weights.weight.end(), 0.0); }

Failure refused(const WeightedProblem& problem, const WeightedTarget& target) {
    const auto error = error_of([&] {
        solve_on(problem, 2, [&](comm::Communicator& communicator, const WeightedProblem& share) {
            return solve_weights(communicator, share, target);
        });
    });
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST((error->code() == ExitCode::usage));
    return error->failure();
}

Weights solved_equal(const WeightedProblem& problem, std::int64_t k) {
    return solved(problem, [k](comm::Communicator& communicator, const WeightedProblem& share) {
        return equal_weights(communicator, share, k);
    });
}

struct Limits {
    double largest;
    std::vector<double> shares;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(selection_limits)

BOOST_AUTO_TEST_CASE(the_minimiser_is_the_best_of_all_active_sets) {
    const std::vector<Limits> limits{{2.0, {}},         {1.2, {}},        {infinity, {0.2}}, {infinity, {0.1, 0.3}},
                                     {2.5, {0.3, 0.4}}, {1.5, {0.5, 0.2}}};
    for (unsigned seed = 1; seed <= 3; ++seed) {
        for (const auto& columns : {std::vector<double>{}, {2.0, 0.5, 7.0}}) {
            for (const auto& limit : limits) {
                const auto problem = limited(random_problem(seed, 6, columns), limit.largest, limit.shares);
                for (const double lambda : {1e-3, 0.1}) {
                    const auto found = solved(problem, strength(lambda));
                    const auto w = dense(problem, found);
                    check_close(w, by_enumeration(problem, lambda));
                    BOOST_TEST(std::abs(found.report.objective - static_cast<double>(objective(problem, w, lambda))) <
                               1e-11);
                    BOOST_TEST(violation(problem, found) < 1e-9);
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(optimality_conditions_hold_for_larger_problems) {
    for (const auto& columns : {std::vector<double>{}, {1.0, 0.1, 3.0, 0.02}}) {
        for (const auto& limit : {Limits{4.0, {}}, Limits{infinity, {0.05, 0.2}}, Limits{6.0, {0.3, 0.1, 0.7}}}) {
            const auto problem = limited(random_problem(7, 200, columns, 0.1), limit.largest, limit.shares);
            for (const double lambda : {1e-4, 1e-2, 1.0}) {
                const auto found = solved(problem, strength(lambda));
                BOOST_TEST(violation(problem, found) < 1e-8, "lambda " << lambda << ", X " << limit.largest);
                BOOST_TEST(found.report.gap < 1e-12 * (1.0 + std::abs(found.report.objective)));
                BOOST_TEST(found.report.iterations < 60);
                BOOST_TEST(found.report.largest == std::count(found.weight.begin(), found.weight.end(), limit.largest));
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(limits_that_are_kept_anyway_change_nothing) {
    for (const auto& columns : {std::vector<double>{}, {3.0, 1.0}}) {
        const auto free = random_problem(3, 40, columns);
        const auto wide = limited(free, 1e6, {1.0, 1.5});
        for (const auto& target : {count(12), count(40), strength(0.01)}) {
            const auto expected = solved(free, target);
            const auto found = solved(wide, target);
            BOOST_TEST(found.row == expected.row, boost::test_tools::per_element());
            check_close(found.weight, expected.weight);
            BOOST_TEST(found.report.largest == 0);
        }
    }
}

BOOST_AUTO_TEST_CASE(first_order_reaches_k_with_the_largest_lambda) {
    const auto problem = limited(random_problem(5, 40, {}), 5.0, {0.15, 0.3});
    for (const std::int64_t k : {11, 12, 25, 39, 40}) {
        const auto found = solved(problem, count(k));
        BOOST_TEST(found.report.support == k);
        BOOST_TEST(violation(problem, found) < 1e-9);
        BOOST_TEST(std::abs(sum_of(found) - 40.0) < 1e-9);
        if (k < 40) BOOST_TEST(solved(problem, strength(found.report.lambda * (1 + 1e-6))).report.support == k + 1);
    }
    // As few as the limits let, 8 of weight 5, is less than what any lambda gives: the nearest that one gives.
    const auto fewest = solved(problem, count(8));
    BOOST_TEST(fewest.report.support >= 8);
    BOOST_TEST(fewest.report.support <= 10);
    BOOST_TEST(violation(problem, fewest) < 1e-7);
}

BOOST_AUTO_TEST_CASE(a_cap_with_room_for_k_exactly_gives_k_times_the_cap) {
    for (const auto& columns : {std::vector<double>{}, {3.0, 1.0}}) {
        const auto problem = limited(random_problem(9, 30, columns), 30.0 / 7.0, {});
        const auto found = solved(problem, count(7));
        BOOST_TEST(found.report.support == 7);
        BOOST_TEST(found.report.largest == 7);
        BOOST_TEST(found.weight == std::vector<double>(7, 30.0 / 7.0), boost::test_tools::per_element());
        BOOST_TEST(violation(of_support(problem, found), found) < 1e-8);
        // All rows at the cap: there is no threshold, and nothing else is possible.
        const auto all = limited(random_problem(9, 30, columns), 1.0, {});
        BOOST_TEST(solved(all, strength(0.1)).weight == std::vector<double>(30, 1.0), boost::test_tools::per_element());
    }
}

BOOST_AUTO_TEST_CASE(ties_at_the_cap_and_at_the_threshold) {
    auto tied = linear({0.9, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.1});
    tied.largest = 2.0;
    for (const double lambda : {1e-9, 1e-3, 0.1, 0.3}) {
        const auto found = solved(tied, strength(lambda));
        const auto w = dense(tied, found);
        BOOST_TEST(std::abs(sum_of(found) - 8.0) < 1e-12);
        for (const std::size_t i : {1U, 2U}) BOOST_TEST(w[i] == w[0]);
        for (const std::size_t i : {4U, 5U, 6U}) BOOST_TEST(w[i] == w[3]);
        BOOST_TEST(violation(tied, found) < 1e-12);
    }
    for (const auto& [k, reached] : {std::pair<std::int64_t, std::int64_t>{4, 7}, {5, 7}, {7, 7}, {8, 8}})
        BOOST_TEST(solved(tied, count(k)).report.support == reached, "k = " << k);
    auto equal = linear(std::vector<double>(9, 0.4));
    equal.largest = 3.0;
    check_close(solved(equal, count(4)).weight, std::vector<double>(9, 1.0));
}

BOOST_AUTO_TEST_CASE(shares_that_fill_exactly) {
    for (const auto& columns : {std::vector<double>{}, {3.0, 1.0}}) {
        // Every row is in a group: each gets its share, whatever its influence.
        const auto problem = limited(random_problem(11, 30, columns), infinity, {0.5, 0.3, 0.2});
        for (const auto& target : {strength(1e-3), strength(1.0), count(12)}) {
            const auto found = solved(problem, target);
            for (const std::int32_t g : {0, 1, 2})
                BOOST_TEST(std::abs(of_group(problem, found, g) / problem.group_most[static_cast<std::size_t>(g)] - 1) <
                           1e-9);
            BOOST_TEST(violation(of_support(problem, found), found) < 1e-8);
        }
        // A share that is just what the group gets without it.
        const auto free = random_problem(11, 30, columns);
        const auto expected = solved(free, strength(0.02));
        auto exact = limited(free, infinity, {0.5});
        exact.group_most[0] = of_group(exact, expected, 0);
        const auto found = solved(exact, strength(0.02));
        BOOST_TEST_REQUIRE(found.row == expected.row, boost::test_tools::per_element());
        for (std::size_t i = 0; i < found.weight.size(); ++i)
            BOOST_TEST(std::abs(found.weight[i] - expected.weight[i]) < 1e-7);
    }
}

BOOST_AUTO_TEST_CASE(second_order_reaches_k_within_limits) {
    for (unsigned seed = 1; seed <= 2; ++seed) {
        const auto problem = limited(random_problem(seed, 60, {3.0, 1.0, 0.2}, 0.1), 8.0, {0.2, 0.25});
        for (const std::int64_t k : {10, 20, 40}) {
            const auto found = solved(problem, count(k));
            BOOST_TEST(found.report.support == k);
            BOOST_TEST(largest_of(found) <= 8.0);
            BOOST_TEST(violation(of_support(problem, found), found) < 1e-8, "k = " << k);
        }
    }
}

// The largest weights are all of group 0, which must not have more than half.
BOOST_AUTO_TEST_CASE(a_cut_leaves_rows_for_every_share_that_is_needed) {
    auto problem = random_problem(13, 40, {1e3, 1e3});
    for (double& p : problem.influence) p = 0.25;
    problem = limited(problem, infinity, {0.5, 0.5, 0.2});
    for (std::size_t i = 0; i < problem.row.size(); ++i)
        if (problem.group[i] == 0) problem.influence[i] = 5.0;
    const auto found = solved(problem, count(2));
    BOOST_TEST(found.report.reachable > 2);
    BOOST_TEST(found.report.support >= 2);
    BOOST_TEST(found.report.support <= 3);
    BOOST_TEST(std::abs(sum_of(found) - 40.0) < 1e-9);
    BOOST_TEST(of_group(problem, found, 0) < 20.0 + 1e-9);
    BOOST_TEST(violation(of_support(problem, found), found) < 1e-8);
}

BOOST_AUTO_TEST_CASE(equal_weights_keep_shares_by_their_number) {
    auto problem = linear({0.9, 0.1, 0.2, 0.8, 0.3, 0.0, 0.7, 0.4, 0.5});
    problem = limited(problem, infinity, {0.5});  // group 0: rows 0, 3 and 6, the best
    const auto found = solved_equal(problem, 4);
    BOOST_TEST(found.row == (std::vector<std::int64_t>{0, 3, 7, 8}), boost::test_tools::per_element());
    BOOST_TEST((found.report.full == std::vector<std::int32_t>{0}));
    problem.group_most = {4.4};  // room for one of four: 2.25 each
    BOOST_TEST(solved_equal(problem, 4).row == (std::vector<std::int64_t>{0, 4, 7, 8}),
               boost::test_tools::per_element());
    problem.largest = 2.0;
    const auto error = error_of([&] { solved_equal(problem, 4); });
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST(error->failure().where == "--select");
}

BOOST_AUTO_TEST_CASE(what_has_no_room_says_what_would) {
    const auto narrow = limited(random_problem(1, 30, {}), 0.5, {});
    BOOST_TEST(refused(narrow, strength(0.1)).where == "--max-weight");
    BOOST_TEST(refused(narrow, strength(0.1)).expected == "at least 1, as the weights add up to 30");
    BOOST_TEST(refused(narrow, strength(0.1)).found == "0.5");

    const auto few = refused(limited(random_problem(1, 30, {}), 2.5, {}), count(7));
    BOOST_TEST(few.where == "--select");
    BOOST_TEST(few.expected == "at least 12 samples, which can have all weight under --max-weight 2.5");
    BOOST_TEST(few.found == "7");
    BOOST_TEST(few.remedy == "Ask for 12 or more, or raise --max-weight to 4.28572 or more.");

    const auto shares = refused(limited(random_problem(1, 30, {}), infinity, {0.3, 0.2, 0.1}), strength(0.1));
    BOOST_TEST(shares.where == "--source-share");
    BOOST_TEST(shares.found == "room for 0.6 of it, as no other source is eligible");
    BOOST_TEST(shares.remedy.find("0.4 together") != std::string::npos);

    const auto both = refused(limited(random_problem(1, 30, {}), 1.2, {0.1, 0.1}), strength(0.1));
    BOOST_TEST(both.where == "--max-weight");  // 3 + 3 + 10 X = 30
    BOOST_TEST(both.expected == "at least 2.4, as the weights add up to 30");
    BOOST_TEST(solved(limited(random_problem(1, 30, {}), 2.4, {0.1, 0.1}), strength(0.1)).report.support > 0);
}

BOOST_AUTO_TEST_CASE(room_and_the_fewest_rows_for_it) {
    const WeightRoom capped{10.0, 3.0, {}, {8}};
    BOOST_TEST(capped.most() == 24.0);
    BOOST_TEST((capped.fewest() == std::vector<std::int64_t>{4}));
    const WeightRoom shares{10.0, infinity, {6.0, 3.0, 1.0, 0.5}, {5, 5, 5, 5, 0}};
    BOOST_TEST(shares.most() == 10.5);
    BOOST_TEST((shares.fewest() == std::vector<std::int64_t>{1, 1, 1, 0, 0}));
    const WeightRoom both{10.0, 2.0, {5.0, 3.0}, {9, 9, 1}};  // 2 2 1, 2 1, 2
    BOOST_TEST((both.fewest() == std::vector<std::int64_t>{3, 2, 1}));
    BOOST_TEST((WeightRoom{10.0, 1.0, {5.0}, {9, 4}}.fewest() == std::nullopt));
    BOOST_TEST((WeightRoom{10.0, infinity, {5.0}, {9, 4}}.fewest() == std::vector<std::int64_t>{0, 1}));
}

BOOST_AUTO_TEST_CASE(sources_of_a_selection_keep_their_share) {
    const RatedRows rows{{0.9F, 0.8F, 0.7F, 0.3F, 0.2F, 0.1F},
                         1,
                         std::vector<std::uint8_t>(6, 1),
                         std::vector<std::int32_t>(6, 1),
                         {3, 3, 1, 1, 2, 2},
                         {"none", "shut", "whole", "part"}};
    comm::run_ranks_as_threads(2, [&](comm::Communicator& communicator) {
        auto shares = settings(selection::Order::first, {}, 0.05);
        shares.source_share = {{"shut", 0.0}, {"whole", 1.0}, {"part", 0.25}};
        const auto found = selected(communicator, rows, 4, shares);
        double of_first = 0.0;
        for (std::size_t i = 0; i < found.picks.size(); ++i) {
            const auto of = rows.source[static_cast<std::size_t>(found.picks[i].row)];
            BOOST_TEST(of != 1);
            if (of == 3) of_first += found.weight[i];
        }
        BOOST_TEST(std::abs(of_first - 1.5) < 1e-12);
        BOOST_TEST(figure(found, "weights_full_sources") == 1);
        BOOST_TEST(found.report.ends_with("; at their share: part"), found.report);
    });
}

BOOST_AUTO_TEST_SUITE_END()
