// What a run needs: FLOPs, memory, files; whether that fits, and what is said about it.

#include <algorithm>
#include <functional>

#include "idistill/model/cost.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/work/work.hpp"
#include "safetensors_files.hpp"
#include "stages_support.hpp"
#include "temporary_folder.hpp"

using namespace stages_test;
using plan::describe, plan::RankLayout, plan::shortfalls;

namespace {

const MachineFacts plenty{1e15, 1e15, 1e15};
const char* const activations = "activations of a micro-batch";
const char* const unit = "rows of a unit";
const char* const influences = "influences, for the weights";

/// A run whose needs are known by hand: 1000 samples, three targets of two tasks, 100 landmarks.
struct Case {
    Values values = small_values();
    data::CorpusIndex pool = corpus(std::vector<Sample>(1000, {20, 5}));
    data::CorpusIndex targets = default_targets;

    Case() { values.of<PropagationSettings>().landmarks = 100; }
    explicit Case(const std::function<void(Values&)>& change) : Case() { change(values); }
    [[nodiscard]] RunPlan run() const { return plan_of(values, pool, targets); }
};

plan::Plan plan_with(const std::function<void(Values&)>& change) { return Case(change).run().plan; }

/// Of the solve, which rank 0 does alone.
double solve_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& need : plan.needs) sum += need.on_rank_0;
    return sum;
}

/// Of a gradient pass down to the first block, whose largest layer is 4 x 6.
double exact_pass(const plan::Batch& batch) {
    return model::gradient_activation_bytes(small_model(), 0, batch, batch.labels) + 4.0 * 24;
}

/// A micro-batch of at most 2048 tokens of equal samples, up to their last label, all of them in one unit.
plan::Batch of_rows(std::int64_t rows) {
    const auto samples = std::min<std::int64_t>(rows, 107);  // 107 x 19 = 2033
    return {.rows = rows, .tokens = 19 * samples, .samples = samples, .labels = 5 * samples, .longest = 19};
}

double embedding_bytes(const plan::Plan& plan) {
    return bytes_per_rank(plan, "directions of the embedding") +
           bytes_per_rank(plan, "projection of the hidden states") + bytes_per_rank(plan, "sketch of the embedding");
}

/// Of the weights' influences, with one rank.
double selection_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& need : plan.needs)
        if (need.what == influences) sum += need.per_rank + need.over_ranks;
    return sum;
}

/// Rows of the state's datasets, and checksums and marks of its units.
double kept_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& stage : plan.stages) sum += stage.stored_bytes();
    return sum;
}

/// Rows of the result's datasets.
double result_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& dataset : plan.result) sum += static_cast<double>(dataset.rows) * dataset.row_bytes;
    return sum;
}

/// What is in a file, with its own, its groups' and its datasets' overhead.
double in_a_file(double bytes, double groups, double datasets) { return bytes + 5300 + 1100 * groups + 340 * datasets; }

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
    // of a column name, task, label tokens, norm and trust; of a task name and five kinds of trust
    result += 3.0 * (32 + 4 + 4 + 4 + 8) + 2.0 * (1 + 5 * 8);
    // landmarks: index, columns twice; the embedding's name and bandwidth
    result += 100.0 * (8 + 2 * 4 * 3) + 3 + 8;
    BOOST_TEST(result_bytes(plan) == result);
    // source, selected, column, task, landmark, embedding, contrast and two quarantines
    BOOST_TEST(plan.result.size() == 34U);
    BOOST_TEST(plan.result_bytes() == in_a_file(result, 9, 34));
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
    // index; directions of the embedding; projections of the sketch
    const double always = 33.0 * 1000 + 4.0 * 2 * 8 * (14 + 2 * (2 * 8 + 2 * 6 + 3 * 10)) + 4.0 * 3 * 2 * (4 + 6);
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
    const auto layout = work::state_layout(Case([](Values& v) { contract(v); }).run().plan);
    BOOST_REQUIRE(layout.size() == 3U);
    BOOST_TEST((layout[0].name == "targets" && layout[0].rows == 3 && layout[0].units.size() == 2U));
    BOOST_TEST((layout[1].name == "directions" && layout[1].rows == 2 && layout[1].units.size() == 2U));
    BOOST_TEST((layout[1].units[1].rows == data::RowRange{1, 1} && layout[1].columns[0].width == 72));
    BOOST_TEST((layout[2].name == "pool" && layout[2].rows == 1000 && layout[2].columns.size() == 2U));
    BOOST_TEST((layout[2].columns[0].name == "norm" && layout[2].columns[0].width == 1));
    BOOST_TEST((layout[2].columns[1].name == "influence" && layout[2].columns[1].width == 2));

    const auto hessian = work::state_layout(Case([](Values& v) {
                                                weigh(v, selection::Order::second);
                                                v.of<WeightedSettings>().curvature = selection::Curvature::hessian;
                                                v.of<WeightedSettings>().learning_rate = 0.1;
                                                v.of<GradientSettings>().curvature_rank = 5;
                                            })
                                                .run()
                                                .plan);
    BOOST_REQUIRE(hessian.size() == 4U);  // the solve keeps nothing
    BOOST_TEST((hessian[1].name == "curvature" && hessian[1].rows == 5 && hessian[1].units.size() == 5U));
    BOOST_TEST((hessian[2].name == "landmarks" && hessian[2].rows == 100 && hessian[2].columns.size() == 3U));
    BOOST_TEST((hessian[2].columns[1].width == 3 + 5 && hessian[2].columns[2].name == "embedding"));
    BOOST_TEST((hessian[3].name == "pool" && hessian[3].columns[1].width == 3 + 5));
}

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
    one.values.of<JvpOptions>().rank = 0;
    BOOST_TEST(found() == 4.0 * 2 * (40 + 2 * 120));
    settings.embedding_dim = 5;  // projected from 8
    BOOST_TEST(found() == 4.0 * 2 * (40 + 2 * 120) + 4.0 * 8 * 5);
    settings.embedding = "hidden";
    BOOST_TEST(found() == 4.0 * 8 * 5);
    settings.embedding_dim = 8;
    BOOST_TEST(found() == 0.0);
    settings.embedding = "gradient-tail:1";  // four states, a sketch of down_proj, 4 x 6, with side 2
    BOOST_TEST(found() == 4.0 * 2 * (4 + 6));
    settings.embedding = "hidden+gradient-tail:1";
    settings.embedding_dim = 5;  // projected from 8; two of four states, side 1
    BOOST_TEST(found() == 4.0 * (8 * 5 + 4 * 2 + 4 + 6));
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
    BOOST_TEST(bytes_held(one.run().plan, activations, "landmarks") == exact_pass(of_rows(100)));
    settings.embedding = "gradient-tail:3";  // whole samples, and a row more of each in the last block
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
    BOOST_TEST(bytes_held(plan, activations, "pool") == exact_pass(of_rows(1000)));
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
    for (const auto sketch : {SketchKind::kronecker, SketchKind::rademacher, SketchKind::hadamard, SketchKind::none}) {
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
    const auto dense = plan_with([](Values& v) { v.of<JvpOptions>().rank = 0; });
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
