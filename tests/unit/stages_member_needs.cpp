// What members add to the needs of a run, and what `embed` needs.

#include "idistill/propagation/propagation.hpp"
#include "safetensors_files.hpp"
#include "stages_needs.hpp"
#include "temporary_folder.hpp"

using namespace stages_test;

namespace {

/// An AdamW state of the small model's down_proj layers.
std::string optimizer_file(const TemporaryFolder& folder) {
    Tensors tensors;
    const std::vector<float> moments(24, 0.5F);
    for (const auto& layer : model::chosen_layers(small_model(), "down_proj"))
        for (const auto* moment : {"exp_avg.", "exp_avg_sq."})
            tensors[moment + layer.name + ".weight"] = {
                "F32", {4, 6}, {reinterpret_cast<const char*>(moments.data()), moments.size() * sizeof(float)}};
    const auto path = folder / "state.safetensors";
    write(path, file_of(tensors, {{"step", "7"},
                                  {"beta1", "0.9"},
                                  {"beta2", "0.98"},
                                  {"eps", "1e-06"},
                                  {"weight_decay", "0.01"},
                                  {"learning_rate", "2e-05"}}));
    return path;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stages_member_needs)

BOOST_AUTO_TEST_CASE(what_refining_and_choosing_a_bandwidth_add) {
    Case one;
    const auto before = one.run().plan;
    one.values.of<PropagationSettings>().refine = 3.0;  // times 50
    const auto cost = cost_of(one.values);
    auto run = one.run();
    BOOST_TEST(flops(run, "refine") == 150.0 * (cost.gradient(19, 5) + cost.scores(3)),
               boost::test_tools::tolerance(1e-12));
    BOOST_TEST(kept_bytes(run.plan) == kept_bytes(before) + 4.0 * 150 * 4 + 9.0);
    BOOST_TEST(run.plan.state_bytes() - before.state_bytes() == 4.0 * 150 * 4 + 9.0 + 1100 + 340 * 4);
    // rows that are not known yet: a micro-batch full of the longest, at most one sample a row
    const plan::Batch any{.rows = 150, .tokens = 2048, .samples = 150, .labels = 2048, .longest = 20};
    BOOST_TEST(bytes_held(run.plan, activations, "refine") == exact_pass(any));
    BOOST_TEST(bytes_held(run.plan, unit, "refine") == 4.0 * 12 * (150 + 150));
    BOOST_TEST(bytes_held(run.plan, unit, "pool") == bytes_held(before, unit, "pool"));
    BOOST_TEST(contains(describe(run.plan, {}, plenty), "refine, at most           150"));
    BOOST_TEST(!contains(describe(before, {}, plenty), "refine"));
    one.values.of<KernelRidgeSettings>().bandwidth_auto = true;
    run = one.run();
    BOOST_TEST(solve_bytes(run.plan) == solve_bytes(before) + 100.0 * 8 * 5 * 100);
    BOOST_TEST(flops(run, "solve") == 5.0 * before.stage("solve").flops());
}

BOOST_AUTO_TEST_CASE(bytes_of_the_embedding) {
    Case one;
    auto& settings = one.values.of<EmbeddingSettings>();
    const auto found = [&one] { return embedding_bytes(one.run().plan); };
    // low rank, two tangents: of the tokens' embedding 10 + 4, in each of two blocks q, o 8, k, v 6, gate, up, down 10
    BOOST_TEST(found() == 4.0 * 2 * 8 * (14 + 2 * (2 * 8 + 2 * 6 + 3 * 10)));
    one.values.of<JvpSettings>().direction_rank = 0;
    BOOST_TEST(found() == 4.0 * 2 * (40 + 2 * 120));
    settings.embedding_dim = 5;  // projected from 8
    BOOST_TEST(found() == 4.0 * 2 * (40 + 2 * 120) + 4.0 * 8 * 5);
    settings.embedding = "hidden";
    BOOST_TEST(found() == 4.0 * 8 * 5);
    settings.embedding_dim = 8;
    BOOST_TEST(found() == 0.0);
    settings.embedding = "gradient-tail:1";  // four states, the maps of down_proj's sketch, 4 x 6
    BOOST_TEST(found() == 4.0 * 3 * (4 + 6));
    settings.embedding = "hidden+gradient-tail:1";
    settings.embedding_dim = 5;  // projected from 8; two of four states
    BOOST_TEST(found() == 4.0 * (8 * 5 + 4 * 2 + 3 * (4 + 6)));
}

BOOST_AUTO_TEST_CASE(bytes_of_several_embeddings) {
    Case one;
    auto& settings = one.values.of<EmbeddingSettings>();
    const auto before = one.run().plan;
    settings.embedding = "jvp+hidden";
    const auto run = one.run();
    BOOST_TEST(run.propagation->width() == 16);
    const auto& two = run.plan;
    BOOST_TEST(kept_bytes(two) == kept_bytes(before) + 4.0 * 100 * 8);
    BOOST_TEST(bytes_per_rank(two, "landmarks") == bytes_per_rank(before, "landmarks") + 100.0 * 3 * 4 * 8);
    one.values.of<KernelRidgeSettings>().kernel = KernelChoice::sum;
    const auto sum = one.run().plan;
    BOOST_TEST(solve_bytes(sum) == solve_bytes(before) + 100.0 * 8 * (100 + 8));
    BOOST_TEST(solve_bytes(two) == solve_bytes(sum) + 100.0 * 8 * 5 * 100);  // to compare two kernels
    const auto solve = [](const plan::Plan& plan) { return plan.stage("solve").flops(); };
    BOOST_TEST((solve(two) == 2.0 * solve(sum) && solve(sum) == solve(before)));
    one.values.of<KernelRidgeSettings>().kernel = KernelChoice::automatic;
    // landmarks are exact, then embedded: what takes more counts
    one.values.of<GradientSettings>().parameters = "layers.0|down_proj";
    settings.embedding = "hidden";
    BOOST_TEST(bytes_held(one.run().plan, activations, "landmarks") ==
               exact_pass(of_rows(100), 1));  // nine layers share twelve numbers
    settings.embedding = "gradient-tail:3";   // whole samples, and a row more of each in the last block
    const plan::Batch whole{.rows = 100, .tokens = 2000, .samples = 100, .labels = 500, .longest = 20};
    BOOST_TEST(bytes_held(one.run().plan, activations, "landmarks") ==
               model::gradient_activation_bytes(small_model(), 0, whole, 500 + 100));
}

BOOST_AUTO_TEST_CASE(bytes_of_the_task_gradients) {
    const auto plan = plan_with(contract);
    // two tasks with all 72 entries of the chosen layers, one more on its way; products with both of a unit, and of its
    // micro-batch; a sum
    BOOST_TEST(bytes_held(plan, "directions of the tasks", "pool") == 4.0 * (2 * 72 + 72));
    BOOST_TEST(bytes_held(plan, "directions of the tasks", "directions") == 0.0);
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * 2 * (1000 + 107));
    BOOST_TEST(bytes_held(plan, unit, "directions") == 4.0 * 72);
    BOOST_TEST(bytes_held(plan, activations, "pool") == exact_pass(of_rows(1000), 0));  // no sketch
    // norms of the targets, two columns and norm of the pool, two sums; five units
    BOOST_TEST(kept_bytes(plan) == 4.0 * (3 + 1000 * 3 + 2 * 72) + 5.0 * 9.0);
}

BOOST_AUTO_TEST_CASE(what_the_hessian_adds) {
    const auto second = [](Values& v) { weigh(v, selection::Order::second); };
    const auto before = plan_with(second);
    const Case one([&](Values& v) {
        second(v);
        v.of<WeightedSettings>().curvature = selection::Curvature::hessian;
        v.of<GradientSettings>().curvature_rank = 5;
    });
    const auto run = one.run();
    const auto& plan = run.plan;
    const auto& layout = run.influence->layout();
    BOOST_TEST((layout.columns == 3 && layout.products() == 3 + 5));
    BOOST_TEST((plan.stage("curvature").columns[0].width == 72 && plan.find("directions") == nullptr));
    BOOST_TEST(bytes_held(plan, "directions of the curvature", "curvature") == 4.0 * (5 + 3) * 72);
    BOOST_TEST(bytes_held(plan, "directions of the curvature", "pool") == 0.0);
    BOOST_TEST(flops(run, "curvature") > 5.0 * flops(run, "targets"));
    BOOST_TEST(bytes_held(plan, activations, "curvature") > bytes_held(plan, activations, "targets"));
    const double rows = 1000, columns = 3;
    BOOST_TEST(result_bytes(plan) - result_bytes(before) == 4.0 * 5 * rows + 8.0 * 5);  // factor and values
    BOOST_TEST(selection_bytes(plan) - selection_bytes(before) == 4.0 * (5 - columns) * 1.05 * rows);
    // five further columns of landmarks and pool, five products with a checksum and a mark each
    BOOST_TEST(kept_bytes(plan) - kept_bytes(before) == 4.0 * 5 * (rows + 100 + 72) + 5 * 9.0);
    BOOST_TEST(contains(describe(plan, {}, plenty), "directions of the curvature"));
    BOOST_TEST(!contains(describe(before, {}, plenty), "directions of the curvature"));
}

BOOST_AUTO_TEST_CASE(what_an_optimizer_adds) {
    const TemporaryFolder folder;
    for (const auto sketch :
         {SketchKind::tensor, SketchKind::kronecker, SketchKind::rademacher, SketchKind::hadamard, SketchKind::none}) {
        Case one;
        one.values.of<GradientSettings>().sketch = sketch;
        const auto before = one.run().plan;
        one.values.of<GradientSettings>().optimizer = optimizer_file(folder);
        const auto run = one.run();
        const auto& plan = run.plan;
        const auto cost = cost_of(one.values);
        BOOST_TEST(plan.shared_bytes_per_node() - before.shared_bytes_per_node() == 4.0 * 72);
        // what the targets take beside that is not the most at a time
        BOOST_TEST(plan.bytes_per_node({}) - before.bytes_per_node({}) == 4.0 * 72, boost::test_tools::tolerance(1e-6));
        // the gradient of one layer is there already, except beside its transform; and what makes b of a layer
        BOOST_TEST(bytes_held(plan, activations, "targets") - bytes_held(before, activations, "targets") ==
                   (sketch == SketchKind::hadamard ? 4.0 * 24 : 0.0));
        BOOST_TEST(bytes_held(plan, "optimizer's constant step", "targets") == 4.0 * 10 * 24);
        BOOST_TEST(bytes_held(plan, "optimizer's constant step", "pool") == 0.0);
        BOOST_TEST(flops(run, "targets") == before.stage("targets").flops());  // targets are not preconditioned
        BOOST_TEST(flops(run, "landmarks") == 100.0 * (cost.gradient(19, 5, GradientKind::preconditioned) +
                                                       cost.scores(3) + embedding_flops(one.values, 20, 5)));
        BOOST_TEST(contains(describe(plan, {}, plenty), "optimizer's factors"));
        const auto missing = shortfalls(plan, {2, 2}, {1e15, before.shared_bytes_per_node(), 1e15});
        BOOST_TEST((missing.size() == 1 && missing[0].what == "/dev/shm"));
    }
    BOOST_TEST(!contains(describe(Case().run().plan, {}, plenty), "optimizer"));
    // what is no such file is refused before the run, though a plan opens none
    const Case none([&](Values& v) { v.of<GradientSettings>().optimizer = folder / "none.safetensors"; });
    BOOST_TEST(failure_of(ExitCode::bad_input, [&] { none.run().influence->check_files(small_model()); }).where ==
               folder / "none.safetensors");
}

BOOST_AUTO_TEST_CASE(what_grows_with_what) {
    const auto base = Case().run().plan;
    const auto changed = [](const std::function<void(Case&)>& change) {
        Case one;
        change(one);
        return one.run().plan;
    };
    const auto pass = [](const plan::Plan& plan) { return bytes_held(plan, activations, "pool"); };
    BOOST_TEST(pass(changed([](Case& c) { c.values.of<RunSettings>().batch_tokens *= 4; })) > 3.9 * pass(base));
    BOOST_TEST(pass(changed([](Case& c) { c.pool.tokens[5] = 100000; })) > 40.0 * pass(base));
    const auto landmarks = changed([](Case& c) { c.values.of<PropagationSettings>().landmarks = 200; });
    BOOST_TEST(solve_bytes(landmarks) > 3.8 * solve_bytes(base));
    BOOST_TEST(landmarks.stage("solve").flops() == 8.0 * base.stage("solve").flops());
    const auto wide = changed([](Case& c) { c.values.of<GradientSettings>().sketch_dim = 48; });
    for (const auto* what : {"sketches of the targets", "sketches of the columns"})
        BOOST_TEST(bytes_per_rank(wide, what) == 4.0 * bytes_per_rank(base, what));
    BOOST_TEST(plan_with(by_task).result_bytes() < base.result_bytes());
    const auto exact = plan_with(without_propagation);
    BOOST_TEST((solve_bytes(exact) == 0.0 && bytes_per_rank(exact, "landmarks") == 0.0 &&
                embedding_bytes(exact) == 0.0 && exact.find("solve") == nullptr));
    // the rows of a rank: 24 bytes a row, at second order 4 more a column
    const auto weighted = [](selection::Order order, const std::function<void(Values&)>& change = {}) {
        return plan_with([&](Values& v) {
            weigh(v, order);
            if (change) change(v);
        });
    };
    const double rows = 1000, columns = 3;
    const auto first = weighted(selection::Order::first), second = weighted(selection::Order::second);
    BOOST_TEST((selection_bytes(base) == 0.0 && selection_bytes(first) == 24.0 * rows));
    BOOST_TEST(selection_bytes(second) - selection_bytes(first) ==
               4.0 * rows * columns + 50.0 * (24.0 + 4.0 * columns));  // of the 5 % that are kept
    const auto kept = weighted(selection::Order::second, [](Values& v) {
        v.of<BudgetSettings>().percent.reset();
        v.of<BudgetSettings>().samples = 57;
    });
    BOOST_TEST(selection_bytes(kept) - selection_bytes(second) == 7.0 * (24.0 + 4.0 * columns));
    const TemporaryFolder folder;
    const auto constant = weighted(selection::Order::second, [&folder](Values& v) {
        v.of<WeightedSettings>().learning_rate = 0.1;
        v.of<GradientSettings>().optimizer = optimizer_file(folder);
    });
    BOOST_TEST(selection_bytes(constant) - selection_bytes(second) == 16.0 * rows);
    // ranks share the weights and multiply the rest
    BOOST_TEST(base.bytes_per_node({64, 32}) - base.bytes_per_node({}) == 31.0 * base.bytes_per_rank(1),
               boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(embed_needs_what_its_rows_take) {
    Case one;
    one.values.command = options::Command::embed;
    const auto planned = [&one](const std::string& kind) {
        one.values.of<EmbeddingSettings>().embedding = kind;
        return plan_embedding(one.values, small_model(), {one.pool, {{one.pool.size(), 0}}});
    };
    const auto hidden = planned("hidden");
    const auto& plan = hidden.plan;
    BOOST_TEST(hidden.embedding->width() == 8);
    BOOST_REQUIRE(plan.stages.size() == 1U);
    const auto& stage = plan.stage("pool");
    BOOST_TEST(covered(stage.units) == 1000);
    BOOST_TEST(kept_bytes(plan) == 1000.0 * 4 * 8 + 9.0 * static_cast<double>(stage.units.size()));
    BOOST_TEST(plan.state_bytes() == in_a_file(kept_bytes(plan), 1, 1 + 2));
    BOOST_TEST(result_bytes(plan) == 1000.0 * (4 * 8 + 32));
    BOOST_TEST(plan.result_bytes() == in_a_file(result_bytes(plan), 0, 2));
    // rows of a unit and a micro-batch, in their places, and on their way to the state; then to the file
    BOOST_TEST(bytes_held(plan, unit, "pool") == 3.0 * 4 * 8 * (1000 + 102));
    BOOST_TEST(bytes_held(plan, activations, "pool") == model::state_activation_bytes(small_model(), 0, 2040));
    BOOST_TEST(bytes_held(plan, "rows on their way into the result", "write") == 4.0 * 8 * 1000);
    BOOST_TEST(bytes_held(plan, "rows on their way into the result", "pool") == 0.0);
    BOOST_TEST(plan.bytes_per_rank(1) == 205e6 + 1.15 * (33.0 * 1000 + bytes_held(plan, unit, "pool") +
                                                         bytes_held(plan, activations, "pool")),
               boost::test_tools::tolerance(1e-12));
    BOOST_TEST(embedding_bytes(plan) == 0.0);
    BOOST_TEST(stage.flops() == 1000.0 * embedding_flops(one.values, 20, 5));
    BOOST_TEST((solve_bytes(plan) == 0.0 && plan.bytes_on_rank_0(1) == 0.0 &&
                plan.shared_bytes_per_node() == 4.0 * (80 + 3 * (120 + 8) + 4)));
    const auto gradient = planned("gradient").plan;
    BOOST_TEST(bytes_held(gradient, activations, "pool") > bytes_held(plan, activations, "pool"));
    BOOST_TEST(embedding_bytes(gradient) > embedding_bytes(plan));

    const auto all = shortfalls(plan, {8, 4}, {1e6, 1e15, 1000.0});
    BOOST_REQUIRE(all.size() == 2U);
    BOOST_TEST((all[0].what == "memory of a node" && all[1].what == "disk"));
    BOOST_TEST((contains(all[1].remedy, "--embedding-dim") && !contains(all[1].remedy, "--columns")));

    one.pool.labels[3] = 0;
    one.pool.tokens[4] = 0;
    const auto fewer = planned("hidden");
    BOOST_TEST(fewer.plan.stage("pool").flops() == 998.0 * embedding_flops(one.values, 20, 5));
    BOOST_TEST(fewer.usable.pool_quarantine.size() == 2U);
    BOOST_TEST(bytes_held(fewer.plan, unit, "pool") == 3.0 * 4 * 8 * (998 + 102));
    failure_of(ExitCode::usage, [&] { planned("gradient-tail:4"); });
}

BOOST_AUTO_TEST_SUITE_END()
