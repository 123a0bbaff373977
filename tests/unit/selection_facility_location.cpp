// Facility locations against brute force: what greedy picks, what the best set has, at several rank counts.
#include <bit>
#include <map>

#include "facility_cases.hpp"
#include "failure_of.hpp"
#include "figures.hpp"

using namespace idistill;
using namespace idistill::test;
using selection::Greedy, selection::SimilarityKind;

namespace {

const std::vector<std::string> rules{"facility-location", "facility-location-mi", "facility-location-cg"};

/// Every rule by samples and by influence.
std::vector<options::Values> all_forms(std::int64_t samples) {
    std::vector<options::Values> all;
    for (const auto& rule : rules) {
        all.push_back(by_samples(rule, samples));
        all.push_back(by_samples(rule, samples));
        all.back().of<FacilityLocationSettings>().similarity = SimilarityKind::influence;
    }
    return all;
}

bool conditional(const options::Values& values) {
    return values.of<selection::SelectionSettings>().member == "facility-location-cg";
}

void check_value(const selection::Selection& found, const Objective& objective) {
    const double value = objective(rows_of(found));
    BOOST_TEST(std::abs(figure(found, "selection_objective") - value) < 1e-5 * (1.0 + value));
    BOOST_TEST(figure(found, "selection_bound") >= figure(found, "selection_objective"));
}

/// Every pick is one of the best that are left.
void check_greedy(const Objective& objective, const Rows& candidates, const Rows& picks) {
    for (std::size_t i = 0; i < picks.size(); ++i) {
        const auto best =
            best_next(objective, candidates, {picks.begin(), picks.begin() + static_cast<std::ptrdiff_t>(i)});
        BOOST_TEST((std::find(best.begin(), best.end(), picks[i]) != best.end()), "pick " << i << ", row " << picks[i]);
    }
}

void check_same(const selection::Selection& a, const selection::Selection& b) {
    BOOST_TEST(rows_of(a) == rows_of(b), boost::test_tools::per_element());
    BOOST_TEST(figure(a, "selection_objective") == figure(b, "selection_objective"));  // the same bits
    BOOST_TEST(figure(a, "selection_bound") == figure(b, "selection_bound"));
}

/// Samples that influence alone tells apart, which is still to be put in; one source, one task.
FacilityPool alike(std::int64_t columns, std::vector<std::int32_t> tokens) {
    FacilityPool pool;
    pool.rows = std::ssize(tokens);
    pool.width = 1;
    pool.columns = columns;
    pool.factors.assign(tokens.size(), 1.0F);
    pool.eligible.assign(tokens.size(), 1);
    pool.source.assign(tokens.size(), 0);
    pool.column_task.assign(static_cast<std::size_t>(columns), 0);
    pool.tokens = std::move(tokens);
    return pool;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(selection_facility_location)

BOOST_AUTO_TEST_CASE(greedy_is_greedy_and_near_the_optimum) {
    for (unsigned seed = 0; seed < 6; ++seed) {
        auto pool = clustered_pool(seed, 12, 4);
        pool.eligible[3] = 0;
        pool.factor(5, 1) = not_a_number;
        pool.influence[7 * 3 + 1] = std::numeric_limits<float>::infinity();
        for (auto values : all_forms(1 + seed % 4)) {
            pool.held = conditional(values) ? Rows{1, 8} : Rows{};
            auto& settings = values.of<FacilityLocationSettings>();
            settings.target_weight = 0.4 + 0.3 * seed;
            settings.held_weight = 0.5 + 0.2 * seed;
            auto seen = pool;  // a row that has no factors is no matter where influence decides
            if (settings.similarity == SimilarityKind::influence)
                std::fill(seen.factors.begin(), seen.factors.end(), 1.0F);
            const auto objective = objective_of(seen, values);
            const auto candidates = candidates_of(seen);
            const auto count = *values.of<selection::BudgetSettings>().samples;
            const auto found = chosen_by(values, pool, 1);
            BOOST_TEST(std::ssize(found.picks) == count);
            check_greedy(objective, candidates, rows_of(found));
            check_value(found, objective);
            const double best = optimum_by_force(objective, candidates, count, [](const Rows&) { return true; });
            BOOST_TEST(figure(found, "selection_bound") >= best - 1e-6);
            BOOST_TEST(figure(found, "selection_objective") >= (1.0 - std::exp(-1.0)) * best - 1e-6);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_same_at_any_number_of_ranks) {
    auto pool = clustered_pool(3, 700, 20);  // three blocks
    for (std::int64_t row = 0; row < 700; row += 13) pool.eligible[static_cast<std::size_t>(row)] = 0;
    pool.factor(300, 2) = not_a_number;
    for (auto values : all_forms(60)) {
        pool.held = conditional(values) ? Rows{10, 400} : Rows{};
        for (const auto how : {Greedy::exact, Greedy::stochastic, Greedy::sparse}) {
            auto& settings = values.of<FacilityLocationSettings>();
            if (settings.similarity == SimilarityKind::influence && how == Greedy::sparse) continue;
            settings.greedy = how;
            settings.neighbours = 12;
            const auto expected = chosen_by(values, pool, 1);
            if (how != Greedy::sparse) check_value(expected, objective_of(pool, values));
            for (const int ranks : {2, 3, 5}) check_same(chosen_by(values, pool, ranks), expected);
            settings.memory_gb = how == Greedy::exact ? 1e-5 : 0.0;  // ten kilobytes, or nothing
            check_same(chosen_by(values, pool, 2), expected);
            settings.memory_gb = 1.0;
        }
    }
}

BOOST_AUTO_TEST_CASE(one_block_and_many_ranks) {
    const auto pool = clustered_pool(5, 40, 5);
    for (const auto& values : {by_samples("facility-location", 7), by_samples("facility-location-mi", 7)})
        check_same(chosen_by(values, pool, 5), chosen_by(values, pool, 1));
}

BOOST_AUTO_TEST_CASE(caps_and_token_budgets) {
    for (unsigned seed = 0; seed < 4; ++seed) {
        const auto pool = clustered_pool(seed, 12, 4);
        for (auto values : all_forms(4)) {
            if (conditional(values)) continue;
            values.of<selection::BudgetSettings>().source_cap = {{"a", 1}, {"b", 2}};
            const auto allowed = [&](const Rows& rows) {
                std::map<std::int32_t, std::int64_t> of;
                for (const auto row : rows) ++of[pool.source[static_cast<std::size_t>(row)]];
                return of[0] <= 1 && of[1] <= 2;
            };
            const auto objective = objective_of(pool, values);
            const auto found = chosen_by(values, pool, 2);
            BOOST_TEST(allowed(rows_of(found)));
            check_value(found, objective);
            const double best = optimum_by_force(objective, candidates_of(pool), 4, allowed);
            BOOST_TEST(figure(found, "selection_bound") >= best - 1e-6);
            BOOST_TEST(figure(found, "selection_objective") >= 0.5 * best);

            values.of<selection::BudgetSettings>() = {.samples = {}, .percent = {}, .tokens = 40, .source_cap = {}};
            const auto by_tokens = chosen_by(values, pool, 1);
            BOOST_TEST(by_tokens.tokens <= 40);
            const auto rows = rows_of(by_tokens);
            check_greedy(objective, candidates_of(pool), rows);
            // The next best does not fit.
            const auto next = best_next(objective, candidates_of(pool), rows);
            BOOST_TEST(std::any_of(next.begin(), next.end(), [&](std::int64_t row) {
                return by_tokens.tokens + pool.tokens[static_cast<std::size_t>(row)] > 40;
            }));
            double most = 0.0;
            for (std::int64_t count = 1; count <= 12; ++count)
                most = std::max(most, optimum_by_force(objective, candidates_of(pool), count, [&](const Rows& rows) {
                                    std::int64_t sum = 0;
                                    for (const auto row : rows) sum += pool.tokens[static_cast<std::size_t>(row)];
                                    return sum <= 40;
                                }));
            BOOST_TEST(figure(by_tokens, "selection_bound") >= most - 1e-6);
        }
    }
}

// The next best sample does not fit, which ends the picking; sets without the first pick have it all the same.
BOOST_AUTO_TEST_CASE(the_bound_counts_what_did_not_fit) {
    auto pool = alike(19, {6, 5, 5});
    constexpr std::pair<int, int> covered[]{{0, 9}, {1, 9}, {10, 18}};  // A, C, B
    for (const auto& [first, last] : covered)
        for (int column = 0; column < 19; ++column)
            pool.influence.push_back(column >= first && column <= last ? 1.0F : 0.0F);
    auto values = facility_values("facility-location", 1);
    values.of<FacilityLocationSettings>().similarity = SimilarityKind::influence;
    values.of<selection::BudgetSettings>() = {.samples = {}, .percent = {}, .tokens = 10, .source_cap = {}};
    const auto objective = objective_of(pool, values);
    BOOST_TEST_REQUIRE(objective({1, 2}) == 18.0);
    for (const int ranks : {1, 2}) {
        const auto found = chosen_by(values, pool, ranks);
        BOOST_TEST((rows_of(found) == Rows{0}));
        check_value(found, objective);
        BOOST_TEST(figure(found, "selection_bound") >= 18.0);
    }
}

BOOST_AUTO_TEST_CASE(where_nothing_is_left_to_gain_the_best_alone_follow) {
    auto pool = alike(4, {1, 1, 1, 1, 1});
    for (const int covered : {0, 2, 1, 4, 3})  // of the columns; row 3 stands for everything
        for (int column = 0; column < 4; ++column) pool.influence.push_back(column < covered ? 1.0F : 0.0F);
    auto values = facility_values("facility-location", 4);
    values.of<FacilityLocationSettings>().similarity = SimilarityKind::influence;
    for (const int ranks : {1, 3}) {
        const auto found = chosen_by(values, pool, ranks);
        BOOST_TEST((rows_of(found) == Rows{3, 4, 1, 2}));
        BOOST_TEST(figure(found, "selection_without_gain") == 3);
    }
    const auto one = chosen_by(facility_values("facility-location", 1), pool, 1);
    BOOST_TEST(figure(one, "selection_without_gain") == 0);
}

BOOST_AUTO_TEST_CASE(edges) {
    const auto pool = clustered_pool(1, 30, 3);
    for (const auto& values : all_forms(30)) {  // all of them
        if (conditional(values)) continue;
        const auto all = chosen_by(values, pool, 2);
        auto rows = rows_of(all);
        std::sort(rows.begin(), rows.end());
        Rows expected(30);
        std::iota(expected.begin(), expected.end(), 0);
        BOOST_TEST(rows == expected, boost::test_tools::per_element());
        BOOST_TEST(figure(all, "selection_bound") == figure(all, "selection_objective"));
    }
    const auto one = clustered_pool(1, 1, 1);
    for (const auto& values : all_forms(1))
        if (!conditional(values)) BOOST_TEST((rows_of(chosen_by(values, one, 3)) == Rows{0}));
    auto equal = clustered_pool(1, 9, 1);
    std::fill(equal.factors.begin(), equal.factors.end(), 1.0F);
    std::fill(equal.influence.begin(), equal.influence.end(), -2.0F);
    for (const auto& values : all_forms(4)) {
        equal.held = conditional(values) ? Rows{1} : Rows{};
        BOOST_TEST(
            (rows_of(chosen_by(values, equal, 2)) == (conditional(values) ? Rows{0, 2, 3, 4} : Rows{0, 1, 2, 3})));
    }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_met_is_refused) {
    auto pool = clustered_pool(1, 8, 2);
    pool.held = {2, 5};
    const auto refused = [&](const options::Values& values) {
        return failure_of(ExitCode::usage, [&] { chosen_by(values, pool, 1); });
    };
    BOOST_TEST(contains(refused(by_samples("facility-location-cg", 7)).found, "6 eligible"));
    auto sparse = facility_values("facility-location-mi", 2);
    sparse.of<FacilityLocationSettings>().greedy = Greedy::sparse;
    BOOST_TEST(refused(sparse).where == "--greedy");
    plan::Plan plan;
    const auto alone = selection::make_selector(by_samples("facility-location", 2));
    BOOST_TEST(failure_of(ExitCode::usage, [&] { alone->plan(plan, {8, 3, 0, 0}); }).where == "--similarity");
    pool.held = {2, 99};
    const auto missing =
        failure_of(ExitCode::bad_input, [&] { chosen_by(by_samples("facility-location-cg", 2), pool, 1); });
    BOOST_TEST(contains(missing.found, "'sample 99'"));
    pool.held = {2, 4, 2};
    const auto twice =
        failure_of(ExitCode::bad_input, [&] { chosen_by(by_samples("facility-location-cg", 2), pool, 1); });
    BOOST_TEST(contains(twice.found, "'sample 2' at places 0 and 2"));
}

// With all cells searched and every sample a neighbour nothing is left out.
BOOST_AUTO_TEST_CASE(neighbours_of_all_are_exact) {
    const auto pool = clustered_pool(2, 60, 6);
    auto values = by_samples("facility-location", 9);
    const auto exact = chosen_by(values, pool, 1);
    values.of<FacilityLocationSettings>().greedy = Greedy::sparse;
    check_same(chosen_by(values, pool, 2), exact);
}

BOOST_AUTO_TEST_CASE(large_scale_forms_reach_what_exact_greedy_does) {
    const auto pool = clustered_pool(7, 3000, 150, 16);
    auto values = by_samples("facility-location", 300);
    const auto exact = chosen_by(values, pool, 1);
    BOOST_TEST(figure(exact, "selection_objective") > 0.9 * figure(exact, "selection_bound"));
    const auto value = [&](const selection::Selection& selection) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < pool.rows; ++i) {
            double best = 0.0;
            for (const auto& pick : selection.picks) best = std::max(best, pool.cosine(i, pick.row));
            sum += best;
        }
        return sum;
    };
    const double best = value(exact);
    for (const auto how : {Greedy::stochastic, Greedy::sparse}) {
        values.of<FacilityLocationSettings>().greedy = how;
        const double share = value(chosen_by(values, pool, 1)) / best;
        BOOST_TEST(share > 0.95, "share " << share);
    }
}

BOOST_AUTO_TEST_SUITE_END()
