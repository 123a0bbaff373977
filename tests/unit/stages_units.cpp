// The work units of a run's stages.

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "idistill/propagation/propagation.hpp"
#include "stages_support.hpp"

using namespace stages_test;

BOOST_AUTO_TEST_SUITE(stages_units)

BOOST_AUTO_TEST_CASE(units_cover_every_row_once_and_no_target_unit_crosses_a_task) {
    const auto run = plan_of(small_values(), good_pool(50));
    BOOST_TEST(covered(units(run, "targets")) == 3);
    BOOST_TEST(covered(units(run, "landmarks")) == 2);
    BOOST_TEST(covered(units(run, "pool")) == 50);
    BOOST_REQUIRE(units(run, "targets").size() == 2U);  // two tasks, cheap enough for one unit each
    BOOST_TEST((units(run, "targets")[0].rows == data::RowRange{0, 2}));
    BOOST_TEST((run.usable.target_task == std::vector<std::int32_t>{0, 0, 1}));
    BOOST_TEST((run.influence->layout().columns == 3 && run.propagation->width() == 8));
    std::vector<std::string> names;
    for (const auto& stage : run.plan.stages) names.push_back(stage.name);
    BOOST_TEST((names == std::vector<std::string>{"targets", "landmarks", "solve", "pool"}));
    // tokens, for rates
    const auto& pool = units(run, "pool");
    BOOST_TEST(pool[0].tokens == 10 * (4 + 5 + 6 + 7 + 8));
}

BOOST_AUTO_TEST_CASE(units_keep_to_their_budget) {
    auto large = small_model();
    large.hidden = 4096;
    large.intermediate = 16384;
    std::vector<Sample> samples(40, {2000, 100});
    samples[7] = {60000, 100};  // more than a unit by itself
    const auto pool = corpus(samples);
    auto values = small_values();
    without_propagation(values);
    const auto run = plan_run(values, large, {pool, {{40, 0}}}, {default_targets, {{2, 0}, {1, 0}}});
    const auto cut = units(run, "pool");
    BOOST_TEST(covered(cut) == 40);
    BOOST_TEST(cut.size() > 5U);
    const auto most = values.of<RunSettings>().unit_flops;
    for (const auto& unit : cut) BOOST_TEST((unit.flops <= most || unit.rows.count == 1));
    const auto cost = cost_of(values, large);
    double total = 0;
    for (const auto& sample : samples) total += cost.gradient(sample.tokens - 1, sample.labels) + cost.scores(3);
    BOOST_TEST(std::accumulate(cut.begin(), cut.end(), 0.0,
                               [](double sum, const auto& unit) { return sum + unit.flops; }) == total,
               boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(a_smaller_unit_cost_cuts_every_stage_finer_and_changes_the_hash) {
    auto values = small_values();
    const auto standard = plan_of(values, good_pool(50));
    values.of<RunSettings>().unit_flops = 1.0;
    const auto fine = plan_of(values, good_pool(50));
    BOOST_TEST((units(fine, "targets").size() == 3U && units(fine, "landmarks").size() == 2U &&
                units(fine, "pool").size() == 50U));
    BOOST_TEST(units(standard, "pool").size() == 1U);
    BOOST_TEST(fine.plan.hash() != standard.plan.hash());
}

BOOST_AUTO_TEST_CASE(few_units_for_the_gradients_of_a_task) {
    const auto targets = corpus(std::vector<Sample>(24, {9, 3}));  // 16 of task a, 8 of task b
    auto values = small_values();
    contract(values);
    const auto cost = cost_of(values);
    const auto one = plan_of(values, good_pool(9), targets);
    BOOST_TEST(one.plan.stage("directions").columns[0].width == 3 * 4 * 6);
    const auto cut = units(one, "directions");
    BOOST_REQUIRE(cut.size() == 2U);
    BOOST_TEST((cut[0].rows == data::RowRange{0, 16} && cut[1].rows == data::RowRange{16, 8}));
    BOOST_TEST(cut[0].flops == 16.0 * cost.gradient_sum(8, 3));
    BOOST_TEST(units(one, "targets")[0].flops == 16.0 * cost.contraction(8, 3, 0));

    values.of<RunSettings>().unit_flops = 1.0;
    const auto run = plan_of(values, good_pool(9), targets);
    const auto eight = units(run, "directions");
    BOOST_TEST(covered(eight) == 24);
    BOOST_REQUIRE(eight.size() == 16U);  // two rows each of task a, one each of task b
    BOOST_TEST((eight[7].rows == data::RowRange{14, 2} && eight[8].rows == data::RowRange{16, 1}));
    BOOST_TEST(units(run, "targets").size() == 24U);

    values.of<RunSettings>().unit_flops = 4.0 * cost.gradient_sum(8, 3);  // more than an eighth of a task
    BOOST_TEST(units(plan_of(values, good_pool(9), targets), "directions").size() == 6U);

    values.of<InputSettings>().columns = ColumnKind::samples;
    BOOST_TEST(plan_of(values, good_pool(9), targets).plan.find("directions") == nullptr);
}

BOOST_AUTO_TEST_CASE(a_shortlist_is_planned_by_its_size_alone) {
    auto values = small_values();  // 5 %, two landmarks
    values.of<PropagationSettings>().refine = 4.0;
    const auto pool = good_pool(200);
    const auto run = plan_of(values, pool);
    using stages::shortlist_size;
    BOOST_TEST((run.exact.refine_budget == 10 && shortlist_size(run, 4.0) == 40 && shortlist_size(run, 1.25) == 13));
    BOOST_TEST((shortlist_size(run, 20.0) == 200 && shortlist_size(run, 1e6) == 200));
    BOOST_TEST(covered(units(run, "refine")) == 40);
    const auto cost = cost_of(values);
    double flops = 0.0;
    for (std::int64_t row = 0; row < 200; ++row) {
        const auto tokens = 4 + row % 5;
        BOOST_TEST(run.influence->flops(pool, row) == cost.gradient(tokens - 1, 2) + cost.scores(3));
        flops += run.influence->flops(pool, row) / 200.0;
    }
    BOOST_TEST(units(run, "refine")[0].flops == 40.0 * flops, boost::test_tools::tolerance(1e-12));
    BOOST_TEST(run.plan.stage("refine").at_most);

    values.of<RunSettings>().unit_flops = 3.5 * flops;  // three rows of mean cost
    const auto fine = plan_of(values, pool);
    const auto cut = units(fine, "refine");
    BOOST_TEST(covered(cut) == 40);
    BOOST_REQUIRE(cut.size() == 14U);
    BOOST_TEST((cut[12].rows == data::RowRange{36, 3}));
    BOOST_TEST(fine.plan.hash() != run.plan.hash());
}

BOOST_AUTO_TEST_CASE(a_shortlist_is_at_most_what_is_not_a_landmark) {
    auto values = small_values();
    auto& settings = values.of<PropagationSettings>();
    settings.refine = 100.0;
    auto samples = std::vector<Sample>(50, {5, 1});
    samples[7] = {5, 0};
    const auto pool = corpus(samples);
    BOOST_TEST(covered(units(plan_of(values, pool), "refine")) == 47);
    settings.landmarks.reset();  // every one
    BOOST_TEST(units(plan_of(values, pool), "refine").empty());
    settings.landmarks = 2;
    settings.refine.reset();  // auto: at most the last of refine_factors, of a budget of 3 (2.5 rounded up)
    BOOST_TEST(covered(units(plan_of(values, pool), "refine")) == 36);
    for (const auto& change : std::vector<std::function<void(Values&)>>{
             [](Values& v) { v.of<PropagationSettings>().refine = 0.0; },
             [](Values& v) { v.of<SelectionSettings>().member = "random"; }, without_propagation,
             [](Values& v) {
                 weigh(v, selection::Order::second);
                 v.of<WeightedSettings>().lambda = 1.0;
             }}) {
        auto off = values;
        change(off);
        const auto run = plan_of(off, pool);
        BOOST_TEST((run.plan.find("refine") == nullptr && run.exact.refine_budget == 0));
    }
}

BOOST_AUTO_TEST_CASE(a_token_budget_counts_as_what_it_buys_at_the_mean_length) {
    const auto pool = corpus({{4, 1}, {16, 1}, {900, 0}, {8, 1}, {12, 1}, {0, 0}});
    auto values = small_values();
    values.of<PropagationSettings>().refine = 1.0;
    auto& budget = values.of<BudgetSettings>();
    budget.percent.reset();
    for (const auto& [tokens, samples] :
         std::map<std::int64_t, std::int64_t>{{1, 1}, {14, 1}, {15, 2}, {40, 4}, {999, 4}}) {
        budget.tokens = tokens;
        BOOST_TEST(plan_of(values, pool).exact.refine_budget == samples, tokens);
    }
    budget.tokens.reset();
    budget.samples = 3;
    BOOST_TEST(plan_of(values, pool).exact.refine_budget == 3);
}

BOOST_AUTO_TEST_CASE(rows_per_unit_are_limited) {
    std::vector<Sample> samples(plan::unit_rows + 10, {0, 0});
    samples[3] = samples[4] = {5, 1};
    auto values = small_values();
    values.of<BudgetSettings>().percent = 0.001;
    const auto cut = units(plan_of(values, corpus(samples)), "pool");
    BOOST_REQUIRE(cut.size() == 2U);
    BOOST_TEST((cut[0].rows.count == plan::unit_rows && cut[1].rows.count == 10 && cut[1].flops == 0.0));
}

BOOST_AUTO_TEST_SUITE_END()
