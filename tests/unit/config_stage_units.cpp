// The plan's work units.

#include <algorithm>
#include <numeric>

#include "config_plan_support.hpp"

using namespace config_test;

BOOST_AUTO_TEST_SUITE(config_stage_units)

BOOST_AUTO_TEST_CASE(units_cover_every_row_once_and_no_target_unit_crosses_a_task) {
    const auto plan = plan_of(tiny_settings(), good_pool(50));
    BOOST_TEST(covered(plan.target_units) == 3);
    BOOST_TEST(covered(plan.landmark_units) == 2);
    BOOST_TEST(covered(plan.pool_units) == 50);
    BOOST_REQUIRE(plan.target_units.size() == 2U);  // two tasks, cheap enough for one unit each
    BOOST_TEST((plan.target_units[0].rows == data::RowRange{0, 2}));
    BOOST_TEST((plan.target_task == std::vector<std::int32_t>{0, 0, 1}));
    BOOST_TEST((plan.columns == 3 && plan.embedding_width == 8 && plan.sketch.width == 12 && plan.sketch.side == 2));
}

BOOST_AUTO_TEST_CASE(units_keep_to_their_budget) {
    ModelConfig large = tiny_model();
    large.hidden = 4096;
    large.intermediate = 16384;
    std::vector<Sample> samples(40, {2000, 100});
    samples[7] = {60000, 100};  // more than a unit by itself
    const auto pool = corpus(samples);
    auto settings = tiny_settings();
    settings.propagation = "none";
    const auto plan = make_plan(settings, large, {pool, {{40, 0}}}, {default_targets, {{2, 0}, {1, 0}}});
    BOOST_TEST(covered(plan.pool_units) == 40);
    BOOST_TEST(plan.pool_units.size() > 5U);
    for (const auto& unit : plan.pool_units) BOOST_TEST((unit.flops <= settings.unit_flops || unit.rows.count == 1));
    const CostModel cost(large, settings);
    double total = 0;
    for (const auto& sample : samples) total += cost.gradient(sample.tokens - 1, sample.labels) + cost.scores(3);
    BOOST_TEST(std::accumulate(plan.pool_units.begin(), plan.pool_units.end(), 0.0,
                               [](double sum, const auto& unit) { return sum + unit.flops; }) == total,
               boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(a_smaller_unit_cost_cuts_every_stage_finer_and_changes_the_hash) {
    auto settings = tiny_settings();
    const auto standard = plan_of(settings, good_pool(50));
    settings.unit_flops = 1.0;
    const auto fine = plan_of(settings, good_pool(50));
    BOOST_TEST((fine.target_units.size() == 3U && fine.landmark_units.size() == 2U && fine.pool_units.size() == 50U));
    BOOST_TEST(standard.pool_units.size() == 1U);
    BOOST_TEST(fine.hash != standard.hash);
}

BOOST_AUTO_TEST_CASE(few_units_for_the_gradients_of_a_task) {
    const auto targets = corpus(std::vector<Sample>(24, {9, 3}));  // 16 of task a, 8 of task b
    auto settings = tiny_settings();
    settings.propagation = "none";
    settings.columns = "tasks";
    const CostModel cost(tiny_model(), settings);
    const auto one = plan_of(settings, good_pool(9), targets);
    BOOST_TEST(one.direction_parameters == 3 * 4 * 6);
    BOOST_REQUIRE(one.direction_units.size() == 2U);
    BOOST_TEST((one.direction_units[0].rows == data::RowRange{0, 16}));
    BOOST_TEST((one.direction_units[1].rows == data::RowRange{16, 8}));
    BOOST_TEST(one.direction_units[0].flops == 16.0 * cost.gradient_sum(8, 3));
    BOOST_TEST(one.target_units[0].flops == 16.0 * cost.contraction(8, 3, 0));

    settings.unit_flops = 1.0;
    const auto eight = plan_of(settings, good_pool(9), targets);
    BOOST_TEST(covered(eight.direction_units) == 24);
    BOOST_REQUIRE(eight.direction_units.size() == 16U);  // two rows each of task a, one each of task b
    BOOST_TEST((eight.direction_units[7].rows == data::RowRange{14, 2}));
    BOOST_TEST((eight.direction_units[8].rows == data::RowRange{16, 1}));
    BOOST_TEST(eight.target_units.size() == 24U);

    settings.unit_flops = 4.0 * cost.gradient_sum(8, 3);  // more than an eighth of a task
    BOOST_TEST(plan_of(settings, good_pool(9), targets).direction_units.size() == 6U);

    settings.columns = "samples";
    const auto sketched = plan_of(settings, good_pool(9), targets);
    BOOST_TEST((sketched.direction_units.empty() && sketched.direction_parameters == 0));
}

BOOST_AUTO_TEST_CASE(a_shortlist_is_planned_by_its_size_alone) {
    auto settings = tiny_settings();  // 5 %, two landmarks
    settings.refine = 4.0;
    const auto pool = good_pool(200);
    const CostModel cost(tiny_model(), settings);
    const auto plan = plan_of(settings, pool);
    BOOST_TEST((plan.refine_budget == 10 && shortlist_size(plan, 4.0) == 40 && shortlist_size(plan, 1.25) == 13));
    BOOST_TEST((shortlist_size(plan, 20.0) == 200 && shortlist_size(plan, 1e6) == 200));
    BOOST_TEST(covered(plan.refine_units) == 40);
    double flops = 0.0;
    for (std::int64_t row = 0; row < 200; ++row) flops += exact_flops(plan, cost, settings, pool, row) / 200.0;
    BOOST_TEST(plan.refine_units[0].flops == 40.0 * flops, boost::test_tools::tolerance(1e-12));

    settings.unit_flops = 3.5 * flops;  // three rows of mean cost
    const auto fine = plan_of(settings, pool);
    BOOST_TEST(covered(fine.refine_units) == 40);
    BOOST_REQUIRE(fine.refine_units.size() == 14U);
    BOOST_TEST((fine.refine_units[12].rows == data::RowRange{36, 3}));
    BOOST_TEST(fine.hash != plan.hash);
}

BOOST_AUTO_TEST_CASE(a_shortlist_is_at_most_what_is_not_a_landmark) {
    auto settings = tiny_settings();
    settings.refine = 100.0;
    auto samples = std::vector<Sample>(50, {5, 1});
    samples[7] = {5, 0};
    BOOST_TEST(covered(plan_of(settings, corpus(samples)).refine_units) == 47);
    settings.landmarks.reset();  // every one
    BOOST_TEST(plan_of(settings, corpus(samples)).refine_units.empty());
    settings.landmarks = 2;
    settings.refine.reset();  // auto: at most the last of refine_factors, of a budget of 3 (2.5 rounded up)
    BOOST_TEST(covered(plan_of(settings, corpus(samples)).refine_units) == 36);
    for (const auto& change : std::vector<std::function<void(Settings&)>>{
             [](Settings& s) { s.refine = 0.0; }, [](Settings& s) { s.selection = "random"; },
             [](Settings& s) { s.propagation = "none"; },
             [](Settings& s) { s.selection = "weighted", s.lambda = 1.0; }}) {
        auto off = settings;
        change(off);
        BOOST_TEST(
            (plan_of(off, corpus(samples)).refine_units.empty() && plan_of(off, corpus(samples)).refine_budget == 0));
    }
}

BOOST_AUTO_TEST_CASE(a_token_budget_counts_as_what_it_buys_at_the_mean_length) {
    const auto pool = corpus({{4, 1}, {16, 1}, {900, 0}, {8, 1}, {12, 1}, {0, 0}});
    auto settings = tiny_settings();
    settings.refine = 1.0;
    settings.select_percent.reset();
    for (const auto& [tokens, samples] :
         std::map<std::int64_t, std::int64_t>{{1, 1}, {14, 1}, {15, 2}, {40, 4}, {999, 4}}) {
        settings.select_tokens = tokens;
        BOOST_TEST(plan_of(settings, pool).refine_budget == samples, tokens);
    }
    settings.select_tokens.reset();
    settings.select_samples = 3;
    BOOST_TEST(plan_of(settings, pool).refine_budget == 3);
}

BOOST_AUTO_TEST_CASE(rows_per_unit_are_limited) {
    std::vector<Sample> samples(unit_rows + 10, {0, 0});
    samples[3] = samples[4] = {5, 1};
    auto settings = tiny_settings();
    settings.select_percent = 0.001;
    const auto plan = plan_of(settings, corpus(samples));
    BOOST_REQUIRE(plan.pool_units.size() == 2U);
    BOOST_TEST((plan.pool_units[0].rows.count == unit_rows && plan.pool_units[1].rows.count == 10 &&
                plan.pool_units[1].flops == 0.0));
}

BOOST_AUTO_TEST_SUITE_END()
