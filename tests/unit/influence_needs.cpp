// What the gradient influence needs of memory, and what to use instead.

#include "influence_plan.hpp"

using namespace influence_test;

BOOST_AUTO_TEST_SUITE(influence_needs)

BOOST_AUTO_TEST_CASE(bytes_of_the_sketches) {
    Planning planning;
    auto values = small_values();
    auto& settings = values.of<GradientSettings>();
    const auto of = [&](const std::string& what, const std::string& stage) {
        return numbers(values, {}, what, stage, planning);
    };
    // three targets as gathered, then as many columns in fp64 as they are and put together, and the mean of the
    // contrast; after that the columns in fp32
    const std::string targets = "sketches of the targets", columns = "sketches of the columns";
    for (const auto* stage : {"targets", "directions", "curvature", "columns"})
        BOOST_TEST(of(targets, stage) == 12 * 3);
    BOOST_TEST((of(targets, "pool") == 0.0 && of(targets, "select") == 0.0));
    BOOST_TEST((of(columns, "targets") == 0.0 && of(columns, "columns") == 2 * 12 * (2 * 3 + 1)));
    for (const auto* stage : {"landmarks", "pool", "refine", "write"}) BOOST_TEST(of(columns, stage) == 12 * 3);
    // three layers of 4 x 6: a bucket of eight bytes and a sign each, or a projection to side 2
    const std::string maps = "maps of the sketch";
    for (const auto* stage : {"targets", "columns", "pool"}) BOOST_TEST(of(maps, stage) == 3 * 3 * (4 + 6));
    settings.sketch = SketchKind::kronecker;
    BOOST_TEST(of(maps, "pool") == 3 * 2 * (4 + 6));
    settings.sketch = SketchKind::hadamard;
    BOOST_TEST(of(maps, "pool") == 3 * 24);  // signs
    settings.sketch = SketchKind::rademacher;
    BOOST_TEST(of(maps, "pool") == 0.0);  // drawn again
    settings.sketch = SketchKind::none;
    BOOST_TEST((of(maps, "pool") == 0.0 && of(targets, "targets") == 72 * 3));
    settings.sketch = SketchKind::kronecker;
    settings.contrast = 7;  // in the state alone
    BOOST_TEST((of(targets, "targets") == 12 * 3 && of(columns, "columns") == 2 * 12 * (2 * 3 + 1)));
    settings.sketch_dim = 48;  // side 4
    BOOST_TEST((of(maps, "pool") == 3 * 4 * (4 + 6) && of(targets, "targets") == 48 * 3));
    settings.sketch_dim = 12;
    values.of<InputSettings>().columns = ColumnKind::tasks;  // two of them
    BOOST_TEST((of(targets, "targets") == 12 * 3 && of(columns, "columns") == 2 * 12 * (2 * 2 + 1)));
    BOOST_TEST(of(columns, "pool") == 12 * 2);
}

BOOST_AUTO_TEST_CASE(bytes_of_a_pass) {
    Planning planning;
    auto values = small_values();
    auto& settings = values.of<GradientSettings>();
    plan::Batch batch{.rows = 9, .tokens = 40, .samples = 5, .labels = 15, .longest = 8};
    const auto sketching = [&] {
        planning.plan = {};
        const auto influence = make_influence(values);
        influence->plan(planning.planner, {});
        return (influence->pass_bytes(batch).together() - pass_of(planning, batch)) / 4.0;
    };
    BOOST_TEST(sketching() == 4 * (4 * 8 + 5));  // two count sketches and spectra of 8 rows, sums of five samples
    batch.longest = 1000;
    BOOST_TEST(sketching() == 4 * (4 * 64 + 5));  // of as many rows at a time
    batch.longest = 8;
    settings.sketch = SketchKind::kronecker;
    BOOST_TEST(sketching() == 24.0);  // a gradient for its norm
    batch.longest = 2;
    BOOST_TEST(sketching() == 2 * 2 * 2);  // two products of all pairs of two rows: 2 x (4 + 6) are fewer than 24
    settings.optimizer = "state.safetensors";
    BOOST_TEST(sketching() == 24.0);  // one gradient times its factors
    settings.optimizer.clear();
    settings.sketch = SketchKind::rademacher;
    BOOST_TEST(sketching() == 5 * 24 + 12 * 24);  // gradients of a micro-batch, signs
    settings.sketch = SketchKind::hadamard;
    BOOST_TEST(sketching() == 4 * 32);  // transform of the padded layer
    settings.optimizer = "state.safetensors";
    BOOST_TEST(sketching() == 24 + 4 * 32);
}

BOOST_AUTO_TEST_CASE(bytes_of_a_unit) {
    Planning planning;
    auto values = small_values();
    const plan::Batch batch{.rows = 100, .tokens = 50, .samples = 20, .labels = 50, .longest = 4};
    const auto of = [&](const Wanted& wanted) {
        planning.plan = {};
        const auto influence = make_influence(values);
        influence->plan(planning.planner, wanted);
        return influence->unit_bytes(batch) / 4.0;
    };
    BOOST_TEST(of({}) == 12 * (100 + 20));  // sketches of a unit, and of its micro-batch
    values.of<InputSettings>().columns = ColumnKind::tasks;
    BOOST_TEST(of(contraction) == 2 * (100 + 20));  // products with two tasks
}

BOOST_AUTO_TEST_CASE(bytes_of_the_pass_over_the_targets) {
    Planning planning;
    auto values = small_values();
    values.of<GradientSettings>().sketch = SketchKind::kronecker;
    const auto of = [&](const std::string& what, const std::string& stage, const Wanted& wanted) {
        return 4.0 * numbers(values, wanted, what, stage, planning);
    };
    const std::string activations = "activations of a micro-batch", rows = "rows of a unit";
    BOOST_TEST(of(activations, "targets", {}) == pass_of(planning, target_batch) + 4.0 * 24);
    BOOST_TEST(of(rows, "targets", {}) == 4.0 * 12 * (2 + 2));
    BOOST_TEST((of(activations, "pool", {}) == 0.0 && of(rows, "columns", {}) == 0.0));
    // samples one by one: the longest, the most labels
    planning.run.batch_tokens = 1;
    const plan::Batch single{.rows = 2, .tokens = 8, .samples = 1, .labels = 3, .longest = 8};
    BOOST_TEST(of(activations, "targets", {}) == pass_of(planning, single) + 4.0 * 24);
    BOOST_TEST(of(rows, "targets", {}) == 4.0 * 12 * (2 + 1));
    planning.run.batch_tokens = 2048;
    planning.run.unit_flops = 1.0;  // a micro-batch never crosses a unit
    BOOST_TEST(of(activations, "targets", {}) ==
               pass_of(planning, {.rows = 1, .tokens = 8, .samples = 1, .labels = 3, .longest = 8}) + 4.0 * 24);
    BOOST_TEST(of(rows, "targets", {}) == 4.0 * 12 * (1 + 1));
    planning.run.unit_flops = 5e11;
    // the contrast: a unit of four samples of 19 tokens with 5 labels
    values.of<GradientSettings>().contrast = 4;
    const plan::Batch contrast{.rows = 4, .tokens = 76, .samples = 4, .labels = 20, .longest = 19};
    BOOST_TEST(of(activations, "targets", {}) == pass_of(planning, contrast) + 4.0 * 24);
    BOOST_TEST(of(rows, "targets", {}) == 4.0 * 12 * (4 + 4));
    values.of<GradientSettings>().contrast = 0;
    // contraction has no sketches, and a pass over each task
    values.of<InputSettings>().columns = ColumnKind::tasks;
    BOOST_TEST(of(activations, "targets", contraction) == pass_of(planning, target_batch) + 4.0 * 24);
    BOOST_TEST(of(activations, "directions", contraction) == pass_of(planning, target_batch) + 4.0 * 24);
    BOOST_TEST(of(rows, "targets", contraction) == 0.0);
    BOOST_TEST(of(rows, "directions", contraction) == 4.0 * 72);  // the sum
}

BOOST_AUTO_TEST_CASE(bytes_of_rademacher_are_bounded_until_one_gradient_is_more) {
    Planning planning;
    auto values = small_values();
    values.of<GradientSettings>().sketch = SketchKind::rademacher;
    const plan::Batch batch{.rows = 100, .tokens = 100, .samples = 100, .labels = 100, .longest = 1};
    const auto sketching = [&] {
        planning.plan = {};
        const auto influence = make_influence(values);
        influence->plan(planning.planner, {});
        return (influence->pass_bytes(batch).together() - pass_of(planning, batch)) / 4.0;
    };
    planning.model.hidden = 1 << 10;
    planning.model.intermediate = 1 << 11;  // 2^21 entries: 32 gradients, 8 rows of signs
    BOOST_TEST(sketching() == (1 << 26) + (1 << 24));
    planning.model.intermediate = 1 << 17;
    BOOST_TEST(sketching() == 2.0 * (1 << 27));
}

BOOST_AUTO_TEST_CASE(what_to_use_instead) {
    const auto remedy = [](const Values& values, const Wanted& wanted, const std::string& what) {
        Planning planning;
        plan_gradients(values, planning.planner, wanted);
        for (const auto& need : planning.plan.needs)
            if (need.what == what) return need.remedy;
        return std::string();
    };
    auto values = small_values();
    for (const auto* what : {"maps of the sketch", "sketches of the targets", "sketches of the columns"})
        BOOST_TEST(remedy(values, {}, what) == "a smaller --sketch-dim");
    BOOST_TEST(remedy(values, factor, "directions of the curvature") == "a smaller --curvature-rank");
    BOOST_TEST(remedy(values_by_task(), contraction, "directions of the tasks") == "fewer layers in --parameters");
    values.of<GradientSettings>().sketch = SketchKind::none;
    for (const auto* what : {"sketches of the targets", "sketches of the columns"})
        BOOST_TEST(remedy(values, {}, what) == "--sketch tensor");
}

// One copy a node where ranks compute from it; otherwise every rank, or its GPU, has its own, in its own type.
BOOST_AUTO_TEST_CASE(weights_are_where_they_are_computed_with) {
    Planning planning;
    const auto need = [&planning] { return model::need_of_weights(planning.planner, "weights", ", shared", 100.0); };
    BOOST_TEST(need().what == "weights, shared");
    BOOST_TEST((need().per_node == 100.0 && need().per_rank == 0.0));
    planning.plan.gpu = plan::Gpu{"NVIDIA H100", 8e10, 8e10, 1e14, 4};
    BOOST_TEST(need().what == "weights");
    BOOST_TEST((need().per_node == 0.0 && need().per_rank == 100.0 && need().on_gpu));
    planning.run.dtype = options::DtypeKind::bf16;
    BOOST_TEST(need().per_rank == 50.0);
    planning.plan.gpu.reset();
    BOOST_TEST((need().per_node == 0.0 && need().per_rank == 50.0));
}

// What is made of directions on the host is copied to where the ranks compute: on GPUs both have them.
BOOST_AUTO_TEST_CASE(host_and_gpu_have_directions_of_their_own) {
    const auto held = [](const plan::Plan& plan, const std::string& what, const std::string& stage, bool on_gpu) {
        double sum = 0.0;
        for (const auto& need : plan.needs)
            if (need.what == what && need.on_gpu == on_gpu && need.held_in(stage)) sum += need.per_rank;
        return sum;
    };
    auto values = values_by_task();
    values.of<GradientSettings>().contrast = 5;
    values.of<GradientSettings>().curvature_rank = 3;
    Planning planning;
    planning.plan.gpu = plan::Gpu{"NVIDIA H100", 8e10, 8e10, 1e14, 2};
    const auto planned = plan_gradients(values, planning.planner, {.curvature_columns = true, .whole_pool = true});
    const auto direction = static_cast<double>(planned.pieces * planned.piece_width);
    const auto& plan = planning.plan;
    const std::string tasks = "directions of the tasks", curvature = "directions of the curvature";
    // two tasks, three of the curvature, the contrast's; a piece
    BOOST_TEST(held(plan, tasks, "columns", false) ==
               4.0 * (6.0 * direction + static_cast<double>(planned.piece_width)));
    BOOST_TEST(held(plan, tasks, "pool", false) == 0.0);
    for (const auto* stage : {"columns", "pool"}) BOOST_TEST(held(plan, tasks, stage, true) == 4.0 * 5.0 * direction);
    for (const auto* stage : {"targets", "directions", "curvature"}) BOOST_TEST(held(plan, tasks, stage, true) == 0.0);
    BOOST_TEST(held(plan, "sum of a unit's gradients", "directions", true) == 4.0 * direction);
    BOOST_TEST(held(plan, curvature, "curvature", true) == (4.0 + 4.0 + 2.0) * direction);
    BOOST_TEST(held(plan, curvature, "curvature", false) == 4.0 * (3.0 + 3.0) * direction);
    BOOST_TEST(held(plan, curvature, "pool", true) == 0.0);
}

BOOST_AUTO_TEST_SUITE_END()
