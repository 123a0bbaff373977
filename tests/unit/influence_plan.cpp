// What the gradient influence plans: its stages and their units, and what members of it add.

#include "influence_plan.hpp"

#include <set>

#include "failure_of.hpp"

using namespace influence_test;

BOOST_AUTO_TEST_SUITE(influence_plan)

BOOST_AUTO_TEST_CASE(targets_are_cut_by_task_and_keep_sketch_and_norm) {
    Planning planning;
    const auto values = small_values();
    const auto plan = plan_gradients(values, planning.planner, {});
    BOOST_TEST((plan.sketch.width == 12 && plan.sketch.length == 4 && !plan.contracts && plan.curvature_columns == 0));
    BOOST_TEST((plan.target_task == std::vector<std::int32_t>{0, 0, 1} && plan.parameters == 0));
    BOOST_REQUIRE(planning.plan.stages.size() == 1U);
    const auto& targets = planning.plan.stage("targets");
    BOOST_TEST(covered(targets.units) == 3);
    BOOST_REQUIRE(targets.units.size() == 2U);  // two tasks, cheap enough for one unit each
    BOOST_TEST((targets.units[0].rows == data::RowRange{0, 2} && targets.units[0].tokens == 17));
    const auto cost = cost_of(planning, values, plan);
    BOOST_TEST(targets.flops() == cost.gradient(8, 3) + cost.gradient(7, 2) + cost.gradient(6, 1));
    BOOST_TEST(targets.stored_bytes() == 4.0 * 3 * 13 + 2 * 9.0);
    planning.run.unit_flops = 1.0;
    planning.plan = {};
    plan_gradients(values, planning.planner, {});
    BOOST_TEST(planning.plan.stage("targets").units.size() == 3U);
}

BOOST_AUTO_TEST_CASE(samples_of_the_contrast_have_places_behind_the_targets) {
    std::vector<Sample> samples(50, {9, 3});
    samples[7] = {9, 0};
    Planning planning;
    planning.take(corpus(samples), planning.targets);
    auto values = small_values();
    values.of<GradientSettings>().contrast = 20;
    const auto plan = plan_gradients(values, planning.planner, {});
    BOOST_TEST((plan.contrast_rows.size() == 20U && plan.places() == 23));
    const std::set<std::int64_t> rows(plan.contrast_rows.begin(), plan.contrast_rows.end());
    BOOST_TEST((rows.size() == 20U && !rows.contains(7) && *rows.begin() >= 0 && *rows.rbegin() < 50));
    BOOST_TEST((plan.task_of(2) == 1 && plan.task_of(3) == 2));
    const auto& units = planning.plan.stage("targets").units;
    BOOST_TEST(covered(units) == 23);
    BOOST_REQUIRE(units.size() == 3U);
    BOOST_TEST((units[2].rows == data::RowRange{3, 20} && units[2].tokens == 180));
    BOOST_TEST(units[2].flops == 20.0 * cost_of(planning, values, plan).gradient(8, 3),
               boost::test_tools::tolerance(1e-12));
    BOOST_TEST(contains(planning.plan.notes.front(), "contrast with the mean gradient of 20 pool samples"));

    const auto of = [&](std::int64_t contrast) {
        values.of<GradientSettings>().contrast = contrast;
        planning.plan = {};
        return plan_gradients(values, planning.planner, contraction).contrast_rows.size();
    };
    BOOST_TEST(of(1000) == 49U);  // all that are eligible
    values.of<InputSettings>().columns = ColumnKind::tasks;
    BOOST_TEST(of(1000) == 49U);
    const auto& directions = planning.plan.stage("directions").units;
    BOOST_TEST((covered(directions) == 52 && directions.size() == 3U));
    BOOST_TEST(of(0) == 0U);
    BOOST_TEST(!contains(planning.plan.notes.empty() ? "" : planning.plan.notes.front(), "contrast"));
}

BOOST_AUTO_TEST_CASE(few_units_for_the_gradients_of_a_task) {
    Planning planning;
    planning.take(good_pool(9), corpus(std::vector<Sample>(24, {9, 3})));  // 16 of task a, 8 of task b
    const auto values = values_by_task();
    const auto plan = plan_gradients(values, planning.planner, contraction);
    const auto cost = cost_of(planning, values, plan);
    BOOST_TEST((plan.contracts && plan.parameters == 3 * 4 * 6 && plan.sketch.width == 0));
    const auto again = [&](double unit_flops) {
        planning.run.unit_flops = unit_flops;
        planning.plan = {};
        plan_gradients(values, planning.planner, contraction);
        return planning.plan.stage("directions").units;
    };
    const auto one = again(5e11);
    BOOST_REQUIRE(one.size() == 2U);
    BOOST_TEST((one[0].rows == data::RowRange{0, 16} && one[1].rows == data::RowRange{16, 8}));
    BOOST_TEST(one[0].flops == 16.0 * cost.gradient_sum(8, 3));
    BOOST_TEST(planning.plan.stage("targets").units[0].flops == 16.0 * cost.contraction(8, 3, 0));
    BOOST_TEST(planning.plan.stage("directions").stored_rows() == 2);

    const auto eight = again(1.0);
    BOOST_TEST(covered(eight) == 24);
    BOOST_REQUIRE(eight.size() == 16U);  // two rows each of task a, one each of task b
    BOOST_TEST((eight[7].rows == data::RowRange{14, 2} && eight[8].rows == data::RowRange{16, 1}));
    BOOST_TEST(planning.plan.stage("targets").units.size() == 24U);
    BOOST_TEST(planning.plan.stage("directions").stored_rows() == 16);

    BOOST_TEST(again(4.0 * cost.gradient_sum(8, 3)).size() == 6U);  // more than an eighth of a task

    planning.plan = {};
    const auto sketched = plan_gradients(small_values(), planning.planner, contraction);
    BOOST_TEST((planning.plan.find("directions") == nullptr && sketched.parameters == 0 && !sketched.contracts));
    planning.plan = {};
    BOOST_TEST(!plan_gradients(values, planning.planner, {}).contracts);  // landmarks have sketches
}

BOOST_AUTO_TEST_CASE(a_sketch_that_does_not_fit_is_refused) {
    Planning planning;
    auto values = values_by_task();
    auto& settings = values.of<GradientSettings>();
    const auto refused = [&] {
        return failure_of(ExitCode::usage, [&] { plan_gradients(values, planning.planner, {}); }).where;
    };
    settings.sketch = SketchKind::hadamard;
    settings.sketch_dim = 97;
    BOOST_TEST(refused() == "--sketch-dim");
    settings.sketch = SketchKind::kronecker;
    settings.sketch_dim = 2;
    BOOST_TEST(refused() == "--sketch-dim");
    BOOST_TEST(plan_gradients(values, planning.planner, contraction).sketch.width == 0);  // nothing is sketched
}

BOOST_AUTO_TEST_CASE(bytes_of_the_task_gradients) {
    Planning planning;
    auto values = values_by_task();
    const auto directions_in = [&](const std::string& stage) {
        return numbers(values, contraction, "directions of the tasks", stage, planning);
    };
    // two tasks with all 72 entries of the chosen layers, one more on its way; once both stages are there
    for (const auto* stage : {"columns", "pool", "write"}) BOOST_TEST(directions_in(stage) == 2 * 72 + 72, stage);
    for (const auto* stage : {"targets", "directions", "curvature"}) BOOST_TEST(directions_in(stage) == 0.0, stage);
    for (const auto* what : {"sketches of the targets", "sketches of the columns", "maps of the sketch"})
        BOOST_TEST(!has(planning.plan, what));
    // norms of the targets, two sums; a unit a task each
    BOOST_TEST(planning.plan.stage("targets").stored_bytes() == 4.0 * 3 + 2 * 9.0);
    BOOST_TEST(planning.plan.stage("directions").stored_bytes() == 4.0 * 2 * 72 + 2 * 9.0);
    values.of<GradientSettings>().contrast = 5;
    BOOST_TEST(directions_in("pool") == 3 * 72 + 72);
    values.of<GradientSettings>().contrast = 0;

    planning.model.hidden = planning.model.intermediate = 1500;  // more than two pieces
    values.of<GradientSettings>().parameters = "0\\..*down";
    const double piece = direction_piece;
    BOOST_TEST(directions_in("pool") == 2 * 3 * piece + piece);
    BOOST_TEST(bytes_held(planning.plan, "rows of a unit", "directions") == 4.0 * 3 * piece);
    const auto& directions = planning.plan.stage("directions");
    BOOST_TEST((directions.kept_rows == 3 && directions.stored_rows() == 6));
    BOOST_TEST(directions.stored_bytes() == 4.0 * 2 * 3 * piece + 2 * 9.0);
}

BOOST_AUTO_TEST_CASE(what_the_hessian_adds) {
    Planning planning;
    auto values = small_values();
    values.of<GradientSettings>().curvature_rank = 5;
    plan_gradients(values, planning.planner, {});
    const auto before = planning.plan;
    const std::string what = "directions of the curvature";
    BOOST_TEST((before.find("curvature") == nullptr && !has(before, what)));
    planning.plan = {};
    const auto plan = plan_gradients(values, planning.planner, factor);
    const auto& curvature = planning.plan.stage("curvature");
    BOOST_TEST((plan.curvature_columns == 5 && plan.parameters == 72 && planning.plan.find("directions") == nullptr));
    const auto held = [&planning](const std::string& of, const std::string& stage) {
        return bytes_held(planning.plan, of, stage);
    };
    // a product, a unit's part and slices of others' beside them; then they alone until their sketches are there
    BOOST_TEST(held(what, "curvature") == 4.0 * (5 + 3) * 72);
    BOOST_TEST((held(what, "columns") == 4.0 * 5 * 72 && held(what, "directions") == 4.0 * 5 * 72));
    BOOST_TEST((held(what, "targets") == 0.0 && held(what, "pool") == 0.0 && held(what, "write") == 0.0));
    // five passes on dual numbers over the targets, one after the other
    const auto cost = cost_of(planning, values, plan);
    BOOST_TEST((curvature.repeats == 5 && covered(curvature.units) == 3));
    BOOST_TEST(curvature.flops() ==
               5.0 * (cost.hessian_product(8, 3) + cost.hessian_product(7, 2) + cost.hessian_product(6, 1)));
    BOOST_TEST(curvature.flops() > 5.0 * planning.plan.stage("targets").flops());
    BOOST_TEST(curvature.stored_bytes() == 5 * (4.0 * 72 + 9.0));
    // all three targets are one unit here: no task is cut off
    BOOST_TEST(curvature.units.size() == 1U);
    const plan::Batch all{.rows = 3, .tokens = 21, .samples = 3, .labels = 6, .longest = 8};
    BOOST_TEST(held("activations of a micro-batch", "curvature") == 2.0 * pass_of(planning, all));
    BOOST_TEST(held("activations of a micro-batch", "targets") ==
               bytes_held(before, "activations of a micro-batch", "targets"));
    // five more columns: twice in fp64, then in fp32
    const std::string columns = "sketches of the columns";
    BOOST_TEST(held(columns, "columns") - bytes_held(before, columns, "columns") == 8.0 * 12 * 2 * 5);
    BOOST_TEST(held(columns, "pool") - bytes_held(before, columns, "pool") == 4.0 * 12 * 5);
    BOOST_TEST(held("sketches of the targets", "targets") == bytes_held(before, "sketches of the targets", "targets"));
    const auto influence = make_influence(values);
    const auto result_of = [&](const Wanted& wanted) {
        planning.plan = {};
        influence->plan(planning.planner, wanted);
        return planning.plan.result_bytes();
    };
    // the values, in a group of their own
    BOOST_TEST(result_of(factor) - result_of({}) == 8.0 * 5 + 340 + 1100);
    result_of(factor);
    BOOST_TEST((influence->layout().columns == 3 && influence->layout().products() == 8));
    BOOST_TEST((influence->layout().extras.back().dataset == "/curvature/factor"));

    // cut at a 64th of a pass, whatever a unit may cost
    planning.take(good_pool(9), corpus(std::vector<Sample>(1280, {9, 3})));
    planning.run.unit_flops = 1.0;
    planning.plan = {};
    plan_gradients(values, planning.planner, factor);
    BOOST_TEST(planning.plan.stage("curvature").units.size() == 64U);
    const plan::Batch twenty{.rows = 20, .tokens = 160, .samples = 20, .labels = 60, .longest = 8};
    BOOST_TEST(held("activations of a micro-batch", "curvature") == 2.0 * pass_of(planning, twenty));
}

BOOST_AUTO_TEST_CASE(what_an_optimizer_adds) {
    for (const auto sketch : sketch_kinds) {
        Planning planning;
        auto values = small_values();
        auto& settings = values.of<GradientSettings>();
        settings.sketch = sketch;
        settings.contrast = 4;
        plan_gradients(values, planning.planner, {});
        const auto before = planning.plan;
        BOOST_TEST(before.shared_bytes_per_node() == 0.0);
        settings.optimizer = "state.safetensors";
        planning.plan = {};
        const auto plan = plan_gradients(values, planning.planner, {});
        BOOST_TEST((plan.preconditioned() && plan.step_products == 1));
        BOOST_TEST(planning.plan.shared_bytes_per_node() == 4.0 * 72);
        // the gradient of one layer is there already, except beside its transform; and what makes b of a layer, for
        // the targets and the curvature
        const std::string activations = "activations of a micro-batch";
        BOOST_TEST(bytes_held(planning.plan, activations, "targets") - bytes_held(before, activations, "targets") ==
                       (sketch == SketchKind::hadamard ? 4.0 * 24 : 0.0),
                   sketch);
        const std::string step = "optimizer's constant step";
        BOOST_TEST(bytes_held(planning.plan, step, "targets") == 4.0 * 10 * 24);
        BOOST_TEST(bytes_held(planning.plan, step, "curvature") == 4.0 * 10 * 24);
        BOOST_TEST((bytes_held(planning.plan, step, "pool") == 0.0 && !has(before, step)));
        const auto& targets = planning.plan.stage("targets");
        const auto cost = cost_of(planning, values, plan);
        BOOST_TEST(targets.units[0].flops == before.stage("targets").units[0].flops);  // targets as they are
        BOOST_TEST(targets.units[2].flops == 4.0 * cost.gradient(19, 5, GradientKind::preconditioned));
        BOOST_TEST(targets.stored_bytes() - before.stage("targets").stored_bytes() == 4.0 * 7);  // <g_t, b>
        Layout layout{.columns = 3, .extras = {}};
        BOOST_TEST(exact_flops(plan, cost, layout, planning.pool, 0) ==
                   cost.gradient(19, 5, GradientKind::preconditioned) + cost.scores(3));
    }
    Planning planning;
    auto values = values_by_task();
    values.of<GradientSettings>().optimizer = "state.safetensors";
    BOOST_TEST(plan_gradients(values, planning.planner, {}).step_products == 0);  // only targets of their own
}

BOOST_AUTO_TEST_CASE(the_hash_follows_every_setting) {
    std::set<std::uint64_t> hashes;
    const auto differs = [&hashes](const auto& change, const Wanted& wanted = {}) {
        Planning planning;
        auto values = small_values();
        change(values);
        plan_gradients(values, planning.planner, wanted);
        return hashes.insert(planning.plan.hash()).second;
    };
    BOOST_TEST(differs([](Values&) {}));
    BOOST_TEST(!differs([](Values&) {}));
    BOOST_TEST(differs([](Values& v) { v.of<GradientSettings>().contrast = 3; }));
    BOOST_TEST(differs([](Values& v) { v.of<GradientSettings>().contrast = 4; }));
    BOOST_TEST(differs([](Values& v) { v.of<GradientSettings>().sketch_dim = 3; }));
    BOOST_TEST(differs([](Values& v) { v.of<GradientSettings>().optimizer = "state"; }));
    BOOST_TEST(differs([](Values&) {}, factor));
    BOOST_TEST(differs([](Values& v) { v.of<GradientSettings>().curvature_rank = 5; }, factor));
    BOOST_TEST(differs([](Values& v) { v.of<InputSettings>().columns = ColumnKind::tasks; }, contraction));
}

BOOST_AUTO_TEST_SUITE_END()
