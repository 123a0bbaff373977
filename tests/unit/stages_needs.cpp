// What a run needs: FLOPs, memory, files; whether that fits, and what is said about it.

#include "stages_needs.hpp"

using namespace stages_test;
using plan::describe, plan::RankLayout, plan::shortfalls;

namespace {

/// Stages of which the state keeps something.
std::vector<plan::Stage> kept_stages(const plan::Plan& plan) {
    auto stages = plan.stages;
    std::erase_if(stages, [](const plan::Stage& stage) { return stage.columns.empty(); });
    return stages;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stages_needs)

BOOST_AUTO_TEST_CASE(flops_are_those_of_the_units) {
    const Case one;
    const auto run = one.run();
    const auto cost = cost_of(one.values);
    const double embedding = embedding_flops(one.values, 20, 5);
    BOOST_TEST(flops(run, "landmarks") == 100.0 * (cost.gradient(19, 5) + cost.scores(3) + embedding));
    BOOST_TEST(flops(run, "pool") == 1000.0 * (embedding + 2.0 * 100 * (8 + 3 + 1)));  // and a row of the kernel
    BOOST_TEST(flops(run, "targets") == cost.gradient(8, 3) + cost.gradient(7, 2) + cost.gradient(6, 1));
    BOOST_TEST(flops(run, "directions") == 0.0);
}

BOOST_AUTO_TEST_CASE(flops_on_tasks_are_counted_per_task) {
    Case one(by_task);
    const auto cost = cost_of(one.values);
    BOOST_TEST(flops(one.run(), "landmarks") ==
               100.0 * (cost.gradient(19, 5) + cost.scores(2) + embedding_flops(one.values, 20, 5)));
    contract(one.values);
    const auto exact = cost_of(one.values);
    const auto run = one.run();
    BOOST_TEST(flops(run, "targets") ==
               exact.contraction(8, 3, 0) + exact.contraction(7, 2, 0) + exact.contraction(6, 1, 0));
    BOOST_TEST(flops(run, "directions") ==
               exact.gradient_sum(8, 3) + exact.gradient_sum(7, 2) + exact.gradient_sum(6, 1));
    BOOST_TEST(flops(run, "pool") == 1000.0 * exact.contraction(19, 5, 2));
}

BOOST_AUTO_TEST_CASE(bytes_that_are_exact) {
    const auto plan = Case().run().plan;
    // by hand: embedding and head 2 * 40, 3 blocks of q 16, k 8, v 8, o 16, gate 24, up 24, down 24 and two norms of 4,
    // final norm 4
    BOOST_TEST(plan.shared_bytes_per_node() == 4.0 * (80 + 3 * (120 + 8) + 4));
    // targets: sketch of 12 and norm; landmarks: three columns, norm, embedding of 8; pool: three columns, norm; one
    // unit each task, stage
    BOOST_TEST(kept_bytes(plan) == 4.0 * (3 * 13 + 100 * 12 + 1000 * 4) + 4.0 * 9.0);
    // norm, sketch and a step of no width; norm, influence, embedding; norm, influence; each with checksum and mark
    BOOST_TEST(plan.state_bytes() == in_a_file(kept_bytes(plan), 3, 5 + 5 + 4));
    BOOST_TEST(plan.disk_bytes() == plan.state_bytes() + plan.result_bytes());
    // weight, norm, tokens, source, three columns, two tasks; exact; id; two sources' names
    double result = 1000.0 * (4 * (4 + 3 + 2) + 1 + 32) + 2 * 5;
    // of 5 % that are selected: index, id, weight, column
    result += 50.0 * (8 + 32 + 4 + 4);
    // of a column name, task, label tokens, norm and trust; of a task name, error and six kinds of trust
    result += 3.0 * (32 + 4 + 4 + 4 + 8) + 2.0 * (1 + 8 + 6 * 8);
    // landmarks: index, columns twice; the embedding's name and bandwidth
    result += 100.0 * (8 + 2 * 4 * 3) + 3 + 8;
    BOOST_TEST(result_bytes(plan) == result);
    // source, selected, column, task, landmark, embedding, contrast and two quarantines
    BOOST_TEST(plan.result.size() == 36U);
    BOOST_TEST(plan.result_bytes() == in_a_file(result, 9, 36));
    // embedding of 8 three times; three columns and the norm: three times fp32, twice fp64
    BOOST_TEST(bytes_per_rank(plan, "landmarks") == 100.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4));
    BOOST_TEST(solve_bytes(plan) == 100.0 * 8 * (5 * 100 + 8 + 7 * 4));
    // offset, four numbers of the index, eligible, planned cost
    BOOST_TEST(bytes_per_rank(plan, "index of the pool") == 1000.0 * (8 + 4 * 4 + 1 + 8));
    // columns and norm as read and as written, two tasks, weight and what stands beside
    BOOST_TEST(bytes_held(plan, "rows on their way into the result", "write") == 4.0 * 1000 * (2 * (3 + 1) + 2 + 3));
    BOOST_TEST(bytes_held(plan, "rows on their way into the result", "pool") == 0.0);
}

BOOST_AUTO_TEST_CASE(quarantine_and_growth_are_in_the_result) {
    Case one;
    const auto before = one.run().plan;
    one.pool.labels[3] = 0;
    one.pool.tokens[4] = one.pool.labels[4] = 0;
    one.values.of<PropagationSettings>().landmarks_auto = true;
    one.values.of<PropagationSettings>().landmarks.reset();
    const auto run = one.run();
    const auto bytes = [&run](const std::string& name) {
        for (const auto& dataset : run.plan.result)
            if (dataset.name == name) return static_cast<double>(dataset.rows) * dataset.row_bytes;
        return -1.0;
    };
    BOOST_TEST(bytes("/quarantine/index") == 2 * 8.0);
    BOOST_TEST(bytes("/quarantine/reason") == 2.0 * 15);
    BOOST_TEST((bytes("/target_quarantine/index") == 0.0 && bytes("/target_quarantine/reason") == 0.0));
    const auto counts = static_cast<double>(run.exact.landmark_counts.size());
    for (const auto* name : {"landmarks", "loo_r2", "loo_r2_within_source", "loo_spearman"})
        BOOST_TEST(bytes(std::string("/landmark/growth/") + name) == 8.0 * counts);
    BOOST_TEST(run.plan.result.size() == before.result.size() + 4);
}

// Everything of one rank, stage by stage: the most at a time counts.
BOOST_AUTO_TEST_CASE(what_a_rank_holds_at_a_time) {
    const auto model = small_model();
    const auto plan = Case().run().plan;
    // index; directions of the embedding; buckets and signs of the sketch
    const double always = 33.0 * 1000 + 4.0 * 2 * 8 * (14 + 2 * (2 * 8 + 2 * 6 + 3 * 10)) + 4.0 * 3 * 3 * (4 + 6);
    // sketches of the columns; landmarks
    const double kept = 4.0 * 12 * 3 + 100.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4);
    // 102 samples of 20 tokens; embeddings of a unit and a micro-batch, and beside them what is fitted, twice
    BOOST_TEST(bytes_held(plan, activations, "pool") == model::state_activation_bytes(model, 2, 2040));
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * (8 * (1000 + 102) + 1000 * (8 + 2 * 4)));
    // all landmarks: exact, then their embedding, which takes more; rows of both
    BOOST_TEST(bytes_held(plan, activations, "landmarks") == model::state_activation_bytes(model, 2, 2000));
    BOOST_TEST(bytes_held(plan, activations, "landmarks") > exact_pass(of_rows(100)));
    BOOST_TEST(bytes_held(plan, unit, "landmarks") ==
               4.0 * 12 * (100 + 100) + 4.0 * (8 * (100 + 100) + 100 * (8 + 2 * 4)));
    BOOST_TEST(bytes_held(plan, activations, "targets") ==
               exact_pass({.rows = 2, .tokens = 15, .samples = 2, .labels = 5, .longest = 8}));
    for (const auto* step : {"solve", "columns", "select", "write"})
        BOOST_TEST((bytes_held(plan, activations, step) == 0.0 && bytes_held(plan, unit, step) == 0.0), step);
    const double most = always + kept + bytes_held(plan, activations, "pool") + bytes_held(plan, unit, "pool");
    BOOST_TEST(plan.fullest({1, 1}) == "pool");
    BOOST_TEST(plan.bytes_per_rank(1) == 205e6 + 1.15 * most, boost::test_tools::tolerance(1e-12));
    BOOST_TEST(plan.bytes_on_rank_0(1) == 0.0);  // its solve takes less
    // with more landmarks the solve is the most
    const auto large = Case([](Values& v) { v.of<PropagationSettings>().landmarks = 1000; }).run().plan;
    const double all = 1000.0 * (3 * 4 * 8 + (3 * 4 + 2 * 8) * 4), solve = 1000.0 * 8 * (5 * 1000 + 8 + 7 * 4);
    BOOST_TEST(large.fullest({1, 1}) == "solve");
    BOOST_TEST(
        large.bytes_per_rank(1) + large.bytes_on_rank_0(1) == 205e6 + 1.15 * (always + 4.0 * 12 * 3 + all + solve),
        boost::test_tools::tolerance(1e-12));
}

// A micro-batch has at most --batch-tokens, or one sample, and only samples that are computed.
BOOST_AUTO_TEST_CASE(the_largest_micro_batch_decides) {
    Case one;
    one.values.of<RunSettings>().batch_tokens = 50;
    auto plan = one.run().plan;
    BOOST_TEST(bytes_held(plan, activations, "pool") == model::state_activation_bytes(small_model(), 2, 40));
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * (8 * (1000 + 2) + 1000 * (8 + 2 * 4)));
    BOOST_TEST(bytes_held(plan, unit, "landmarks") == 4.0 * 12 * (100 + 2) + 4.0 * (8 * (100 + 2) + 100 * (8 + 2 * 4)));
    one.values.of<RunSettings>().batch_tokens = 2048;
    without_propagation(one.values);
    plan = one.run().plan;
    BOOST_TEST(bytes_held(plan, activations, "pool") == exact_pass(of_rows(1000)));
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * 12 * (1000 + 107));
    for (std::size_t row = 0; row < 950; ++row) one.pool.labels[row] = 0;
    plan = one.run().plan;
    BOOST_TEST(bytes_held(plan, activations, "pool") == exact_pass(of_rows(50)));
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * 12 * (50 + 50));
    // units of one sample
    one.values.of<RunSettings>().unit_flops = 1.0;
    plan = one.run().plan;
    BOOST_TEST(bytes_held(plan, activations, "pool") == exact_pass(of_rows(1)));
    BOOST_TEST(bytes_held(plan, unit, "pool") == 4.0 * 12 * (1 + 1));
}

BOOST_AUTO_TEST_CASE(the_state_has_what_stages_keep) {
    const auto layout = kept_stages(Case([](Values& v) { contract(v); }).run().plan);
    BOOST_REQUIRE(layout.size() == 3U);
    BOOST_TEST((layout[0].name == "targets" && layout[0].stored_rows() == 3 && layout[0].stored_units().size() == 2U));
    BOOST_TEST(
        (layout[1].name == "directions" && layout[1].stored_rows() == 2 && layout[1].stored_units().size() == 2U));
    BOOST_TEST((layout[1].stored_units()[1].rows == data::RowRange{1, 1} && layout[1].columns[0].width == 72));
    BOOST_TEST((layout[2].name == "pool" && layout[2].stored_rows() == 1000 && layout[2].columns.size() == 2U));
    BOOST_TEST((layout[2].columns[0].name == "norm" && layout[2].columns[0].width == 1));
    BOOST_TEST((layout[2].columns[1].name == "influence" && layout[2].columns[1].width == 2));

    const auto hessian = kept_stages(Case([](Values& v) {
                                         weigh(v, selection::Order::second);
                                         v.of<WeightedSettings>().curvature = selection::Curvature::hessian;
                                         v.of<WeightedSettings>().learning_rate = 0.1;
                                         v.of<GradientSettings>().curvature_rank = 5;
                                     })
                                         .run()
                                         .plan);
    BOOST_REQUIRE(hessian.size() == 4U);  // the solve keeps nothing
    BOOST_TEST(
        (hessian[1].name == "curvature" && hessian[1].stored_rows() == 5 && hessian[1].stored_units().size() == 5U));
    BOOST_TEST((hessian[2].name == "landmarks" && hessian[2].stored_rows() == 100 && hessian[2].columns.size() == 3U));
    BOOST_TEST((hessian[2].columns[1].width == 3 + 5 && hessian[2].columns[2].name == "embedding"));
    BOOST_TEST((hessian[3].name == "pool" && hessian[3].columns[1].width == 3 + 5));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_named_with_a_remedy) {
    const auto plan = Case().run().plan;
    const RankLayout layout{8, 4};
    BOOST_TEST(shortfalls(plan, layout, plenty).empty());
    BOOST_TEST(shortfalls(plan, layout, {}).empty(), "what is unknown does not stop a run");
    BOOST_CHECK_NO_THROW(check_fits(plan, layout, plenty));

    const auto all = shortfalls(plan, layout, {1e6, 100.0, 1000.0});
    BOOST_REQUIRE(all.size() == 3U);
    BOOST_TEST(
        (all[0].what == "memory of a node" && all[0].needed == plan.bytes_per_node(layout) && all[0].available == 1e6));
    BOOST_TEST(contains(all[0].remedy, "fewer ranks on a node"));
    BOOST_TEST((all[1].what == "/dev/shm" && all[1].needed == plan.shared_bytes_per_node() &&
                contains(all[1].remedy, "--shm-size")));
    BOOST_TEST((all[2].what == "disk" && contains(all[2].remedy, "--columns tasks")));
    BOOST_TEST(!contains(shortfalls(plan_with(by_task), layout, {1e15, 1e15, 1.0})[0].remedy, "--columns"));
    const auto failure = failure_of(ExitCode::too_large, [&] { check_fits(plan, layout, {1e15, 100.0, 1e15}); });
    BOOST_TEST((failure.field == "/dev/shm" && failure.found == "100 B"));

    // the remedy names what takes most
    const auto with_more = [&layout](plan::Plan plan, const std::string& what, double bytes) {
        for (auto& need : plan.needs)
            if (need.what == what) need.per_rank = bytes;
        return shortfalls(plan, layout, {1e6, {}, {}})[0].remedy;
    };
    BOOST_TEST(contains(with_more(plan, "landmarks", 1e12), "--landmarks"));
    BOOST_TEST(contains(with_more(plan, "sketches of the columns", 1e13), "--sketch-dim"));
    BOOST_TEST(contains(with_more(plan, activations, 1e14), "--batch-tokens"));
    BOOST_TEST(contains(with_more(plan, "directions of the embedding", 1e15), "--embedding-dim"));
    const auto dense = plan_with([](Values& v) { v.of<JvpSettings>().direction_rank = 0; });
    BOOST_TEST(contains(with_more(dense, "directions of the embedding", 1e15), "--jvp-rank"));
    const auto weights = plan_with([](Values& v) { weigh(v, selection::Order::second); });
    BOOST_TEST(contains(with_more(weights, influences, 1e15), "--order first-order"));
}

BOOST_AUTO_TEST_CASE(exactly_enough_fits) {
    const auto plan = Case().run().plan;
    BOOST_TEST(shortfalls(plan, {2, 2}, {plan.bytes_per_node({2, 2}), plan.shared_bytes_per_node(), plan.disk_bytes()})
                   .empty());
}

BOOST_AUTO_TEST_CASE(description) {
    Case one;
    one.pool.tokens[0] = 0;
    one.pool.labels[0] = 0;
    const auto plan = one.run().plan;
    const auto text = describe(plan, {64, 32}, plenty);
    for (const char* part :
         {"pool 1000 samples, targets 3 samples in 2 tasks, 3 influence columns", "landmarks 100\n",
          "embedding of 8 numbers", "sketch of 12 numbers", "longest sample 20 tokens", "pool quarantined: 1 empty",
          "label targets", "label landmarks", "solve (rank 0)", "propagate", "64 ranks", "assuming 60 GFLOP/s",
          "no stage has more than 2 work units:", "/dev/shm", "This run fits."}) {
        BOOST_TEST(contains(text, part), part);
    }
    const auto tight = describe(plan, {64, 32}, {1e6, 10.0, {}});
    for (const char* part :
         {"TOO LITTLE", "free: unknown", "This run does not fit", "memory of a node", "Start fewer ranks"}) {
        BOOST_TEST(contains(tight, part), part);
    }
    auto& landmarks = one.values.of<PropagationSettings>();
    landmarks.landmarks.reset();
    BOOST_TEST(contains(describe(one.run().plan, {}, plenty), "landmarks 999 (all eligible"));
    landmarks.landmarks_auto = true;
    BOOST_TEST(contains(describe(one.run().plan, {}, plenty), "landmarks 999 at most (auto)"));
    without_propagation(one.values);
    const auto exact = describe(one.run().plan, {}, plenty);
    BOOST_TEST((contains(exact, "exact influence") && !contains(exact, "landmarks") && !contains(exact, "solve (") &&
                !contains(exact, "task gradients")));
    contract(one.values);
    BOOST_TEST(contains(describe(one.run().plan, {}, plenty), "task gradients"));
}

BOOST_AUTO_TEST_SUITE_END()
