// What a run needs.

#include "config_resources_support.hpp"

using namespace config_test;

BOOST_AUTO_TEST_SUITE(config_resources)

BOOST_AUTO_TEST_CASE(flops_are_those_of_the_units) {
    const Run run;
    const auto plan = run.plan();
    const auto needs = run.needs();
    const CostModel cost(tiny_model(), run.settings);
    BOOST_TEST(needs.landmark_flops == 100.0 * (cost.gradient(19, 5) + cost.scores(3) + cost.embedding(20, 5)));
    BOOST_TEST(needs.pool_flops == 1000.0 * (cost.embedding(20, 5) + cost.propagation(100, 3)));
    BOOST_TEST(needs.target_flops == cost.gradient(8, 3) + cost.gradient(7, 2) + cost.gradient(6, 1));
    BOOST_TEST(needs.direction_flops == 0.0);
}

BOOST_AUTO_TEST_CASE(flops_on_tasks_are_counted_per_task) {
    Run run;
    run.settings.columns = "tasks";
    const CostModel cost(tiny_model(), run.settings);
    BOOST_TEST(run.needs().landmark_flops == 100.0 * (cost.gradient(19, 5) + cost.scores(2) + cost.embedding(20, 5)));
    run.contract();
    const CostModel exact(tiny_model(), run.settings);
    const auto needs = run.needs();
    BOOST_TEST(needs.target_flops ==
               exact.contraction(8, 3, 0) + exact.contraction(7, 2, 0) + exact.contraction(6, 1, 0));
    BOOST_TEST(needs.direction_flops == exact.gradient_sum(8, 3) + exact.gradient_sum(7, 2) + exact.gradient_sum(6, 1));
    BOOST_TEST(needs.pool_flops == 1000.0 * exact.contraction(19, 5, 2));
}

BOOST_AUTO_TEST_CASE(bytes_that_are_exact) {
    const Run run;
    const auto needs = run.needs();
    // by hand: embedding and head 2 * 40, 3 blocks of q 16, k 8, v 8, o 16, gate 24, up 24, down 24 and two norms of 4,
    // final norm 4
    BOOST_TEST(needs.weight_bytes_per_node == 4.0 * (80 + 3 * (120 + 8) + 4));
    // targets: sketch of 12 and norm; landmarks: three columns, norm, embedding of 8; pool: three columns, norm; one
    // unit each task, stage
    BOOST_TEST(needs.state_file_bytes == 4.0 * (3 * 13 + 100 * 12 + 1000 * 4) + 4.0 * 9.0);
    BOOST_TEST(needs.disk_bytes() == needs.state_file_bytes + needs.result_file_bytes);
    // weight, norm, tokens, source, three columns, two tasks; exact; id. Landmarks: index, columns twice
    BOOST_TEST(needs.result_file_bytes == 1000.0 * (4 * (4 + 3 + 2) + 1 + 32) + 100.0 * (8 + 2 * 4 * 3));
    // embedding of 8 three times; three columns and the norm: three times fp32, twice fp64
    BOOST_TEST(needs.landmark_bytes_per_rank == 100.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4));
    BOOST_TEST(needs.solve_bytes_on_rank_0 == 100.0 * 8 * (6 * 100 + 8 + 7 * 4));
}

BOOST_AUTO_TEST_CASE(what_refining_and_choosing_a_bandwidth_add) {
    Run run;
    const auto before = run.needs();
    run.settings.refine = 3.0;  // times 50
    const CostModel cost(tiny_model(), run.settings);
    auto needs = run.needs();
    BOOST_TEST(needs.refine_flops == 150.0 * (cost.gradient(19, 5) + cost.scores(3)),
               boost::test_tools::tolerance(1e-12));
    BOOST_TEST(needs.state_file_bytes == before.state_file_bytes + 4.0 * 150 * 4 + 9.0);
    // one more unit to keep; sketches of a unit of 150 rows in place of 100, and its micro-batch
    BOOST_TEST(needs.sketch_bytes_per_rank == before.sketch_bytes_per_rank + 4.0 * 12 * (50 + 50));
    BOOST_TEST(contains(describe(run.settings, run.plan(), needs, plenty), "refine, at most           150"));
    BOOST_TEST(!contains(describe({}, Run().plan(), before, plenty), "refine"));
    run.settings.bandwidth_auto = true;
    needs = run.needs();
    BOOST_TEST(needs.solve_bytes_on_rank_0 == before.solve_bytes_on_rank_0 + 100.0 * 8 * 4 * 100);
    BOOST_TEST(needs.solve_flops == 5.0 * before.solve_flops);
}

BOOST_AUTO_TEST_CASE(bytes_of_the_embedding) {
    Run run;
    // low rank, two tangents: of the tokens' embedding 10 + 4, in each of two blocks q, o 8, k, v 6, gate, up, down 10
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * 2 * 8 * (14 + 2 * (2 * 8 + 2 * 6 + 3 * 10)));
    run.settings.jvp_rank = 0;
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * 2 * (40 + 2 * 120));
    run.settings.embedding_dim = 5;  // projected from 8
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * 2 * (40 + 2 * 120) + 4.0 * 8 * 5);
    run.settings.embedding = "hidden";
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * 8 * 5);
    run.settings.embedding_dim = 8;
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 0.0);
    run.settings.embedding = "gradient-tail:1";  // four states, a sketch of down_proj, 4 x 6, with side 2
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * 2 * (4 + 6));
    run.settings.embedding = "hidden+gradient-tail:1";
    run.settings.embedding_dim = 5;  // projected from 8; two of four states, side 1
    BOOST_TEST(run.needs().embedding_bytes_per_rank == 4.0 * (8 * 5 + 4 * 2 + 4 + 6));
}

BOOST_AUTO_TEST_CASE(bytes_of_several_embeddings) {
    Run run;
    const auto one = run.needs();
    run.settings.embedding = "jvp+hidden";
    const auto plan = run.plan();
    BOOST_TEST((plan.embedding_widths == std::vector<std::int64_t>{8, 8} && plan.embedding_width == 16));
    const auto two = run.needs();
    BOOST_TEST(two.state_file_bytes == one.state_file_bytes + 4.0 * 100 * 8);
    BOOST_TEST(two.landmark_bytes_per_rank == one.landmark_bytes_per_rank + 100.0 * 3 * 4 * 8);
    run.settings.kernel = "sum";
    const auto sum = run.needs();
    BOOST_TEST(sum.solve_bytes_on_rank_0 == one.solve_bytes_on_rank_0 + 100.0 * 8 * (100 + 8));
    BOOST_TEST(two.solve_bytes_on_rank_0 == sum.solve_bytes_on_rank_0 + 100.0 * 8 * 4 * 100);  // to compare two kernels
    BOOST_TEST((two.solve_flops == 2.0 * sum.solve_flops && sum.solve_flops == one.solve_flops));
    run.settings.kernel = "auto";
    run.settings.embedding = "gradient-tail:3";  // keeps what a gradient pass of all blocks keeps
    run.settings.parameters = "layers.0|down_proj";
    const auto tail = run.needs();
    run.settings.embedding = "hidden";
    BOOST_TEST(tail.activation_bytes_per_rank == run.needs().activation_bytes_per_rank);
}

BOOST_AUTO_TEST_CASE(bytes_of_the_sketches) {
    Run run;
    const auto numbers = [&run] { return run.needs().sketch_bytes_per_rank / 4.0; };
    // three targets as gathered, in fp64 and in fp32; two tasks and the contrast in fp64, a row of the latter; a unit
    // of 100 landmarks, and its micro-batch; three layers of 4 x 6
    const double rows = 4 * 3 + 2 * 3 + 1 + 100 + 100;
    BOOST_TEST(numbers() == 12 * rows + 3 * 2 * (4 + 6) + 24);  // projections, and a gradient for its norm
    run.settings.sketch = "rademacher";
    BOOST_TEST(numbers() == 12 * rows + 100 * 24 + 12 * 24);  // gradients, signs
    run.settings.sketch = "hadamard";
    BOOST_TEST(numbers() == 12 * rows + 3 * 24 + 4 * 32);  // signs, transform of the padded layer
    run.settings.sketch = "none";
    BOOST_TEST(numbers() == 72 * rows + 24);
    run.settings.sketch = "kronecker";
    run.settings.contrast = 7;
    BOOST_TEST(numbers() == 12 * rows + 60 + 24);  // in the state alone
    run.settings.contrast = 0;
    run.settings.batch_tokens = 50;
    BOOST_TEST(numbers() == 12 * (rows - 50) + 60 + 24);
    run.settings.batch_tokens = 2048;
    run.pool = corpus(std::vector<Sample>(1000, {2, 1}));
    run.targets = corpus({{2, 1}, {2, 1}, {2, 1}});
    BOOST_TEST(numbers() == 12 * rows + 60 + 2 * 2 * 2);  // norms of two rows by their products
}

BOOST_AUTO_TEST_CASE(bytes_of_rademacher_are_bounded_until_one_gradient_is_more) {
    Run run;
    run.settings.sketch = "rademacher";
    auto model = tiny_model();
    const auto sketching = [&] {
        auto plan = run.plan();  // a unit of 100 rows
        return estimate(run.settings, model, plan, {}).sketch_bytes_per_rank / 4.0 -
               12 * (4 * 3 + 2 * 3 + 1 + 100 + 100);
    };
    model.hidden = 1 << 10;
    model.intermediate = 1 << 11;  // 2^21 entries: 32 gradients, 8 rows of signs
    BOOST_TEST(sketching() == (1 << 26) + (1 << 24));
    model.intermediate = 1 << 17;
    BOOST_TEST(sketching() == 2.0 * (1 << 27));
}

BOOST_AUTO_TEST_CASE(bytes_of_the_task_gradients) {
    Run run;
    run.contract();
    auto needs = run.needs();
    // two tasks with all 72 entries of the chosen layers, one more on its way, the gradient of one layer
    BOOST_TEST(needs.sketch_bytes_per_rank == 4.0 * (2 * 72 + 72 + 24));
    // norms of the targets, two columns and norm of the pool, two sums; five units
    BOOST_TEST(needs.state_file_bytes == 4.0 * (3 + 1000 * 3 + 2 * 72) + 5.0 * 9.0);
    auto plan = run.plan();
    plan.direction_parameters = 2 * direction_piece + 5;  // three pieces
    needs = estimate(run.settings, tiny_model(), plan, {});
    const double piece = 1 << 20;
    BOOST_TEST(needs.sketch_bytes_per_rank == 4.0 * (2 * 3 * piece + piece + 24));
    BOOST_TEST(needs.state_file_bytes == 4.0 * (3 + 1000 * 3 + 2 * 3 * piece) + 5.0 * 9.0);
}

BOOST_AUTO_TEST_CASE(what_the_hessian_adds) {
    Run run;
    run.settings.selection = "weighted";
    run.settings.influence = "second-order";
    const auto before = run.needs();
    run.settings.curvature = "hessian";
    run.settings.rank = 5;
    const auto plan = run.plan();
    const auto needs = run.needs();
    BOOST_TEST((plan.curvature_columns == 5 && plan.stored_columns() == plan.columns + 5));
    BOOST_TEST((plan.direction_parameters == 72 && plan.direction_units.empty()));
    BOOST_TEST(needs.curvature_bytes_per_rank == 4.0 * (5 + 3) * 72);
    BOOST_TEST(needs.curvature_flops > 5.0 * needs.target_flops);
    BOOST_TEST(needs.activation_bytes_per_rank > before.activation_bytes_per_rank);
    const auto rows = static_cast<double>(plan.pool_rows);
    const auto columns = static_cast<double>(plan.columns);
    BOOST_TEST(needs.result_file_bytes - before.result_file_bytes == 4.0 * 5 * rows);
    BOOST_TEST(needs.selection_bytes_per_rank - before.selection_bytes_per_rank == 4.0 * (5 - columns) * 1.05 * rows);
    // five further columns of landmarks and pool, five products
    BOOST_TEST(needs.state_file_bytes - before.state_file_bytes ==
               4.0 * 5 * (rows + static_cast<double>(plan.landmarks.size()) + 72));
    BOOST_TEST(contains(describe(run.settings, plan, needs, plenty), "directions of the curvature"));
    BOOST_TEST(!contains(describe(run.settings, plan, before, plenty), "directions of the curvature"));
}

BOOST_AUTO_TEST_CASE(what_an_optimizer_adds) {
    for (const std::string sketch : {"kronecker", "rademacher", "hadamard", "none"}) {
        Run run;
        run.settings.sketch = sketch;
        const auto before = run.needs();
        run.settings.optimizer = "state.safetensors";
        const auto needs = run.needs();
        const CostModel cost(tiny_model(), run.settings);
        BOOST_TEST(needs.optimizer_bytes_per_node == 4.0 * 72);
        BOOST_TEST(needs.bytes_per_node() - before.bytes_per_node() ==
                   4.0 * 72 + needs.sketch_bytes_per_rank - before.sketch_bytes_per_rank);
        // the gradient of one layer is there already, except beside its transform
        BOOST_TEST(needs.sketch_bytes_per_rank - before.sketch_bytes_per_rank ==
                   (sketch == "hadamard" ? 4.0 * 24 : 0.0) + 4.0 * 10 * 24);  // and b of a layer, for the targets
        BOOST_TEST(needs.target_flops == before.target_flops);                // targets are not preconditioned
        BOOST_TEST(needs.landmark_flops == 100.0 * (cost.gradient(19, 5, GradientKind::preconditioned) +
                                                    cost.scores(3) + cost.embedding(20, 5)));
        BOOST_TEST(contains(describe(run.settings, run.plan(), needs, plenty), "optimizer's factors"));
        const auto missing = shortfalls(run.settings, run.needs({2, 2}), {1e15, needs.weight_bytes_per_node, 1e15});
        BOOST_TEST((missing.size() == 1 && missing[0].what == "/dev/shm"));
    }
    BOOST_TEST(!contains(describe({}, Run().plan(), Run().needs(), plenty), "optimizer"));
}

BOOST_AUTO_TEST_CASE(what_grows_with_what) {
    const Run base;
    const auto needs = base.needs();
    const auto changed = [](auto change) {
        Run run;
        change(run);
        return run.needs();
    };
    BOOST_TEST(changed([](Run& r) { r.settings.batch_tokens *= 4; }).activation_bytes_per_rank >
               needs.activation_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.pool.tokens[5] = 100000; }).activation_bytes_per_rank >
               needs.activation_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.settings.landmarks = 200; }).solve_bytes_on_rank_0 >
               3.8 * needs.solve_bytes_on_rank_0);
    BOOST_TEST(changed([](Run& r) { r.settings.landmarks = 200; }).solve_flops == 8.0 * needs.solve_flops);
    BOOST_TEST(changed([](Run& r) { r.settings.sketch_dim = 48; }).sketch_bytes_per_rank > needs.sketch_bytes_per_rank);
    BOOST_TEST(changed([](Run& r) { r.settings.columns = "tasks"; }).result_file_bytes < needs.result_file_bytes);
    const auto exact = changed([](Run& r) { r.settings.propagation = "none"; });
    BOOST_TEST((exact.solve_bytes_on_rank_0 == 0.0 && exact.landmark_bytes_per_rank == 0.0 &&
                exact.embedding_bytes_per_rank == 0.0 && exact.solve_flops == 0.0));
    // the rows of a rank, whole blocks of 1,024 at least: 24 bytes a row, at second order 4 more a column
    const auto weighted = changed([](Run& r) { r.settings.selection = "weighted"; });
    BOOST_TEST(needs.selection_bytes_per_rank == 0.0);
    BOOST_TEST(weighted.selection_bytes_per_rank == 24.0 * static_cast<double>(base.plan().pool_rows));
    const auto second = changed([](Run& r) {
        r.settings.selection = "weighted";
        r.settings.influence = "second-order";
    });
    BOOST_TEST(second.selection_bytes_per_rank - weighted.selection_bytes_per_rank ==
               4.0 * static_cast<double>(base.plan().pool_rows * base.plan().columns) +
                   50.0 * (24.0 + 4.0 * static_cast<double>(base.plan().columns)));  // of the 5 % that are kept
    const auto kept = changed([](Run& r) {
        r.settings.selection = "weighted";
        r.settings.influence = "second-order";
        r.settings.select_percent.reset();
        r.settings.select_samples = 57;
    });
    BOOST_TEST(kept.selection_bytes_per_rank - second.selection_bytes_per_rank ==
               7.0 * (24.0 + 4.0 * static_cast<double>(base.plan().columns)));
    const auto constant = changed([](Run& r) {
        r.settings.selection = "weighted";
        r.settings.influence = "second-order";
        r.settings.learning_rate = 0.1;
        r.settings.optimizer = "state";
    });
    BOOST_TEST(constant.selection_bytes_per_rank - second.selection_bytes_per_rank ==
               16.0 * static_cast<double>(base.plan().pool_rows));
    // ranks share the weights and multiply the rest
    const auto many = base.needs({64, 32});
    BOOST_TEST(many.bytes_per_node() - needs.bytes_per_node() == 31.0 * needs.bytes_per_rank(),
               boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(embed_needs_what_its_rows_take) {
    Run run;
    run.settings.command = Command::embed;
    const auto needs_of = [&run](const std::string& kind) {
        run.settings.embedding = kind;
        const auto plan = make_embedding_plan(run.settings, tiny_model(), {run.pool, {{run.pool.size(), 0}}});
        return std::pair(plan, estimate(run.settings, tiny_model(), plan, {8, 4}));
    };
    const auto [plan, needs] = needs_of("hidden");
    BOOST_TEST(plan.embedding_width == 8);
    BOOST_TEST(needs.state_file_bytes == 1000.0 * 4 * 8 + 9.0 * static_cast<double>(plan.pool_units.size()));
    BOOST_TEST(needs.result_file_bytes == 1000.0 * (4 * 8 + 32));
    BOOST_TEST(needs.embedding_bytes_per_rank == 2.0 * 1000 * 4 * 8);  // one unit, twice
    BOOST_TEST(needs.pool_flops == 1000.0 * CostModel(tiny_model(), run.settings).embedding(20, 5));
    BOOST_TEST((needs.solve_bytes_on_rank_0 == 0.0 && needs.landmark_flops == 0.0 && needs.target_flops == 0.0));
    const auto gradient = needs_of("gradient").second;
    BOOST_TEST(gradient.activation_bytes_per_rank > needs.activation_bytes_per_rank);
    BOOST_TEST(gradient.embedding_bytes_per_rank > needs.embedding_bytes_per_rank);

    const auto all = shortfalls(run.settings, needs, {1e6, 1e15, 1000.0});
    BOOST_REQUIRE(all.size() == 2U);
    BOOST_TEST((all[0].what == "memory of a node" && all[1].what == "disk"));
    BOOST_TEST((contains(all[1].remedy, "--embedding-dim") && !contains(all[1].remedy, "--columns")));
}

BOOST_AUTO_TEST_SUITE_END()
