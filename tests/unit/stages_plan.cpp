// The plan of a run: who is left out, landmarks, budgets, what is refused, and its hash.

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "idistill/base/philox.hpp"
#include "idistill/base/seeded_permutation.hpp"
#include "idistill/influence/influence.hpp"
#include "stages_support.hpp"

using namespace stages_test;

namespace {

std::vector<std::int64_t> landmarks(std::int64_t rows, std::int64_t count, std::uint64_t seed) {
    auto values = small_values();
    values.of<PropagationSettings>().landmarks = count;
    values.of<RunSettings>().seed = seed;
    return plan_of(values, good_pool(rows)).exact.landmarks;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(stages_plan)

BOOST_AUTO_TEST_CASE(rows_that_cannot_be_used_are_no_landmarks_and_no_columns) {
    const auto pool = corpus({{9, 3}, {0, 0}, {5, 0}, {16, 0}, {16, 2}, {1, 0}, {16, 0}});
    auto values = small_values();
    values.of<InputSettings>().targets.pop_back();
    const auto targets = corpus({{9, 3}, {0, 0}, {8, 0}});
    const auto run = plan_run(values, small_model(), {pool, {{5, 16}, {2, 0}}}, {targets, {{3, 8}}});
    using enum plan::QuarantineReason;
    const std::vector<plan::Quarantined> expected{
        {1, empty}, {2, no_labels}, {3, no_labels_after_truncation}, {5, no_labels}, {6, no_labels}};
    BOOST_TEST((run.usable.pool_quarantine == expected));
    const auto& chosen = run.exact.landmarks;
    BOOST_TEST((std::set(chosen.begin(), chosen.end()) == std::set<std::int64_t>{0, 4}));
    BOOST_TEST((run.influence->layout().columns == 1 && run.usable.tasks == 1));
    BOOST_TEST(covered(units(run, "pool")) == 7);
}

BOOST_AUTO_TEST_CASE(a_task_or_a_pool_without_a_usable_sample_is_an_error) {
    const auto task = failure_of(ExitCode::bad_input, [] {
        plan_of(small_values(), good_pool(9), corpus({{9, 3}, {8, 2}, {7, 0}}));
    });
    BOOST_TEST((task.field == "target b" && task.where == "b.h5"));
    const auto pool = failure_of(ExitCode::bad_input, [] {
        plan_of(small_values(), corpus({{5, 0}, {0, 0}, {4, 0}}));
    });
    BOOST_TEST((contains(pool.found, "1 empty") && contains(pool.found, "2 no label tokens")));
    failure_of(ExitCode::bad_input, [] { plan_of(small_values(), corpus({})); });
    const auto none = failure_of(ExitCode::bad_input, [] {
        const auto index = good_pool(4);
        const auto nothing = corpus({});
        plan_run(small_values(), small_model(), {index, {{4, 0}}}, {nothing, {{0, 0}, {0, 0}}});
    });
    BOOST_TEST(none.field == "target a");
}

BOOST_AUTO_TEST_CASE(landmarks_are_a_shuffle_of_the_eligible_rows) {
    // the same draws on an array that is really there
    std::vector<Sample> samples;
    for (int i = 0; i < 10000; ++i) samples.push_back({5, i % 3 == 0 ? 0 : 1});
    const auto pool = corpus(samples);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < pool.size(); ++i)
        if (i % 3 != 0) rows.push_back(i);
    auto values = small_values();
    values.of<PropagationSettings>().landmarks = 3000;
    const Philox random(values.of<RunSettings>().seed, "landmarks");
    for (std::uint64_t i = 0; i < 3000; ++i) std::swap(rows[i], rows[i + random.below(rows.size() - i, i, 0)]);
    rows.resize(3000);
    BOOST_TEST(plan_of(values, pool).exact.landmarks == rows, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(landmarks_edges) {
    BOOST_TEST((landmarks(1, 1, 43) == std::vector<std::int64_t>{0}));
    auto all = landmarks(100, 100, 43);
    const auto some = landmarks(100, 40, 43);
    BOOST_TEST(std::equal(some.begin(), some.end(), all.begin()), "a larger L only appends");
    BOOST_TEST((landmarks(100, 40, 44) != some));
    std::sort(all.begin(), all.end());
    std::vector<std::int64_t> everything(100);
    std::iota(everything.begin(), everything.end(), 0);
    BOOST_TEST(all == everything, boost::test_tools::per_element());

    const auto failure = failure_of(ExitCode::usage, [] { landmarks(100, 101, 43); });
    BOOST_TEST((failure.where == "--landmarks" && contains(failure.expected, "100") && failure.found == "101"));
    BOOST_TEST(contains(failure.remedy, "--propagation none"));
}

BOOST_AUTO_TEST_CASE(landmarks_that_nobody_asked_for_are_at_most_the_eligible_rows) {
    auto values = small_values();
    auto& wanted = values.of<PropagationSettings>().landmarks;
    wanted.reset();
    auto samples = std::vector<Sample>(100, {5, 1});
    samples[7] = {5, 0};
    BOOST_TEST(plan_of(values, corpus(samples)).exact.landmarks.size() == 99U);
    BOOST_TEST(plan_of(values, good_pool(4096)).exact.landmarks.size() == 4096U);
    const auto chosen = plan_of(values, good_pool(5000));
    wanted = propagation::default_landmarks;
    const auto same = plan_of(values, good_pool(5000));
    BOOST_TEST((chosen.exact.landmarks.size() == 4096U && chosen.plan.hash() == same.plan.hash()));
}

BOOST_AUTO_TEST_CASE(a_growing_number_of_landmarks_appends) {
    auto values = small_values();
    auto& settings = values.of<PropagationSettings>();
    settings.landmarks_auto = true;
    settings.landmarks.reset();
    const auto run = plan_of(values, good_pool(1000));
    BOOST_TEST((run.exact.landmark_counts == std::vector<std::int64_t>{256, 512, 1000}));
    BOOST_TEST(run.exact.landmarks == landmarks(1000, 1000, values.of<RunSettings>().seed),
               boost::test_tools::per_element());
    const auto cut = units(run, "landmarks");
    for (const auto count : run.exact.landmark_counts) {
        BOOST_TEST(std::any_of(cut.begin(), cut.end(), [count](const auto& unit) { return unit.rows.end() == count; }));
    }
    const auto counts = [&](std::int64_t rows, std::int64_t most) {
        settings.landmarks = most;
        return plan_of(values, good_pool(rows)).exact.landmark_counts;
    };
    BOOST_TEST((counts(1000, 600) == std::vector<std::int64_t>{256, 512, 600}));
    BOOST_TEST((counts(1000, 512) == std::vector<std::int64_t>{256, 512}));
    BOOST_TEST((counts(300, 600) == std::vector<std::int64_t>{256, 300}));
    BOOST_TEST((counts(100, 600) == std::vector<std::int64_t>{100}));
    settings.landmarks_auto = false;
    BOOST_TEST((counts(1000, 600) == std::vector<std::int64_t>{600}));
}

BOOST_AUTO_TEST_CASE(samples_of_the_contrast_are_drawn_apart_from_the_landmarks) {
    std::vector<Sample> samples(50, {9, 3});
    samples[7] = {9, 0};
    const auto pool = corpus(samples);
    auto values = small_values();
    values.of<GradientSettings>().contrast = 20;
    values.of<PropagationSettings>().landmarks = 20;
    const auto run = plan_of(values, pool);
    const auto cut = units(run, "targets");
    BOOST_TEST(covered(cut) == 23);
    BOOST_REQUIRE(cut.size() == 3U);
    BOOST_TEST((cut[2].rows == data::RowRange{3, 20}));
    BOOST_TEST(cut[2].flops == 20.0 * cost_of(values).gradient(8, 3), boost::test_tools::tolerance(1e-12));
    BOOST_TEST((first_of_permutation(run.usable.eligible, 43, "landmarks", 20) == run.exact.landmarks));
    BOOST_TEST((first_of_permutation(run.usable.eligible, 43, "contrast", 20) != run.exact.landmarks));

    values.of<GradientSettings>().contrast = 1000;
    BOOST_TEST(covered(units(plan_of(values, pool), "targets")) == 3 + 49);  // all that are eligible
    contract(values);
    const auto contraction = units(plan_of(values, pool), "directions");
    BOOST_TEST((covered(contraction) == 52 && contraction.size() == 3U));
    values.of<GradientSettings>().contrast = 0;
    BOOST_TEST(covered(units(plan_of(values, pool), "targets")) == 3);
}

BOOST_AUTO_TEST_CASE(a_sketch_that_does_not_fit_is_refused_before_the_run) {
    auto values = small_values();
    auto& settings = values.of<GradientSettings>();
    settings.sketch = SketchKind::hadamard;
    settings.sketch_dim = 97;
    BOOST_TEST(failure_of(ExitCode::usage, [&] { plan_of(values, good_pool(9)); }).where == "--sketch-dim");
    settings.sketch = SketchKind::kronecker;
    settings.sketch_dim = 2;
    BOOST_TEST(failure_of(ExitCode::usage, [&] { plan_of(values, good_pool(9)); }).where == "--sketch-dim");
    contract(values);  // nothing is sketched
    BOOST_TEST(plan_of(values, good_pool(9)).plan.stage("targets").columns[1].width == 0);
}

BOOST_AUTO_TEST_CASE(without_propagation_there_are_no_landmarks) {
    auto values = small_values();
    without_propagation(values);
    values.of<EmbeddingSettings>().jvp_blocks = 400;  // not used
    const auto sketch_width = [](const RunPlan& run) { return run.plan.stage("targets").columns[1].width; };
    auto run = plan_of(values, good_pool(9));
    BOOST_TEST((run.propagation == nullptr && run.exact.landmarks.empty() && run.exact.landmark_counts.empty()));
    BOOST_TEST((run.plan.find("landmarks") == nullptr && run.plan.find("solve") == nullptr));
    BOOST_TEST((sketch_width(run) == 12 && run.influence->layout().columns == 3));
    BOOST_TEST(run.plan.find("directions") == nullptr);
    by_task(values);
    run = plan_of(values, good_pool(9));
    BOOST_TEST((run.plan.find("directions") != nullptr && sketch_width(run) == 0));
    BOOST_TEST(run.influence->layout().columns == 2);
    values.of<PropagationSettings>().member = "kernel-ridge";
    values.of<EmbeddingSettings>().jvp_blocks = 3;
    run = plan_of(values, good_pool(9));
    BOOST_TEST((run.plan.find("directions") == nullptr && sketch_width(run) == 12 &&
                run.influence->layout().columns == 2 && run.exact.landmarks.size() == 2U));
}

BOOST_AUTO_TEST_CASE(what_the_inputs_cannot_give_is_refused_before_the_run) {
    const auto refused = [](const auto& change, const data::CorpusIndex& pool) {
        auto values = small_values();
        change(values);
        return failure_of(ExitCode::usage, [&] { plan_of(values, pool); });
    };
    const auto pool = corpus({{5, 1, 0}, {5, 1, 0}, {5, 1, 1}, {5, 0, 1}});  // three eligible, two of them code
    BOOST_TEST(refused([](Values& v) { v.of<EmbeddingSettings>().jvp_blocks = 4; }, pool).where == "--jvp-blocks");
    using Change = std::function<void(BudgetSettings&)>;
    const auto budget = [&](const Change& change) {
        return refused([&change](Values& v) { change(v.of<BudgetSettings>()); }, pool);
    };
    const auto many = budget([](BudgetSettings& b) { b.percent.reset(), b.samples = 4; });
    BOOST_TEST((many.where == "--select" && contains(many.expected, "3") && many.found == "4"));
    BOOST_TEST(budget([](BudgetSettings& b) { b.percent = 100.0; }).found == "4");
    const auto capped = budget([](BudgetSettings& b) { b.percent = 62.5, b.source_cap = {{"code", 1}}; });
    BOOST_TEST((contains(capped.expected, "2") && capped.found == "3" && contains(capped.remedy, "--source-cap")));
    const auto unknown = budget([](BudgetSettings& b) { b.source_cap = {{"mathss", 1}}; });
    BOOST_TEST((unknown.where == "--source-cap" && contains(unknown.remedy, "maths")));
    const auto other = refused(
        [](Values& v) {
            weigh(v, selection::Order::second);
            v.of<WeightedSettings>().source_share = {{"math", 0.25}};
        },
        pool);
    BOOST_TEST((other.where == "--source-share" && contains(other.remedy, "maths?")));

    const auto planned_rows = [&pool](const Change& change) {
        auto values = small_values();
        change(values.of<BudgetSettings>());
        return plan_of(values, pool).usable.pool_rows;
    };
    BOOST_TEST(planned_rows([](BudgetSettings& b) { b.percent = 75.0; }) == 4);
    BOOST_TEST(planned_rows([](BudgetSettings& b) { b.percent = 0.001; }) == 4);  // at least one
    BOOST_TEST(planned_rows([](BudgetSettings& b) { b.percent.reset(), b.tokens = 1000000; }) == 4);
}

BOOST_AUTO_TEST_CASE(rows_of_the_files_must_be_those_of_the_index) {
    const auto pool = good_pool(9);
    failure_of(ExitCode::internal_error, [&] {
        plan_run(small_values(), small_model(), {pool, {{8, 0}}}, {default_targets, {{2, 0}, {1, 0}}});
    });
}

BOOST_AUTO_TEST_CASE(the_hash_follows_everything_that_is_planned) {
    const auto pool = good_pool(60);
    std::set<std::uint64_t> hashes{plan_of(small_values(), pool).plan.hash()};
    BOOST_TEST(hashes.contains(plan_of(small_values(), pool).plan.hash()));
    const auto differs = [&](const RunPlan& run) { return hashes.insert(run.plan.hash()).second; };
    const auto with = [&](const std::function<void(Values&)>& change) {
        auto values = small_values();
        change(values);
        return plan_of(values, pool);
    };
    BOOST_TEST(differs(with([](Values& v) { v.of<RunSettings>().seed = 44; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<PropagationSettings>().landmarks = 3; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<GradientSettings>().contrast = 3; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<GradientSettings>().contrast = 4; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<JvpSettings>().direction_rank = 3; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<EmbeddingSettings>().embedding_dim = 5; })));
    BOOST_TEST(differs(with([](Values& v) { v.of<GradientSettings>().sketch_dim = 3; })));
    BOOST_TEST(differs(with(by_task)));
    BOOST_TEST(differs(with([](Values& v) { v.of<PropagationSettings>().refine = 2.0; })));
    BOOST_TEST(differs(with(without_propagation)));
    BOOST_TEST(differs(with(contract)));
    BOOST_TEST(differs(plan_of(small_values(), good_pool(61))));
    BOOST_TEST(differs(plan_of(small_values(), pool, corpus({{9, 3}, {8, 2}, {7, 2}}))));
    BOOST_TEST(differs(plan_of(small_values(), pool, corpus({{9, 3}, {8, 0}, {7, 1}}))));
}

BOOST_AUTO_TEST_SUITE_END()
