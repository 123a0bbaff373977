// The plan: quarantine, landmarks, contrast, budgets, and its hash.

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "config_plan_support.hpp"
#include "idistill/report/philox.hpp"

using namespace config_test;

namespace {

std::vector<std::int64_t> landmarks(std::int64_t rows, std::int64_t count, std::uint64_t seed) {
    auto settings = tiny_settings();
    settings.landmarks = count;
    settings.seed = seed;
    return plan_of(settings, good_pool(rows)).landmarks;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(config_plan)

BOOST_AUTO_TEST_CASE(rows_without_tokens_or_labels_are_quarantined_with_the_reason) {
    const auto pool = corpus({{9, 3}, {0, 0}, {5, 0}, {16, 0}, {16, 2}, {1, 0}, {16, 0}});
    auto settings = tiny_settings();
    settings.targets.pop_back();
    const auto targets = corpus({{9, 3}, {0, 0}, {8, 0}});
    // the pool's last two rows come from a file that was not cut
    const auto plan = make_plan(settings, tiny_model(), {pool, {{5, 16}, {2, 0}}}, {targets, {{3, 8}}});
    using enum QuarantineReason;
    const std::vector<Quarantined> expected{
        {1, empty}, {2, no_labels}, {3, no_labels_after_truncation}, {5, no_labels}, {6, no_labels}};
    BOOST_TEST((plan.pool_quarantine == expected));
    BOOST_TEST((plan.target_quarantine == std::vector<Quarantined>{{1, empty}, {2, no_labels_after_truncation}}));
    BOOST_TEST((plan.eligible == std::vector<std::uint8_t>{1, 0, 0, 0, 1, 0, 0}));
    BOOST_TEST((std::set(plan.landmarks.begin(), plan.landmarks.end()) == std::set<std::int64_t>{0, 4}));
    BOOST_TEST((plan.target_rows == std::vector<std::int64_t>{0}));
    BOOST_TEST(
        (plan.pool_rows == 7 && plan.tasks == 1 && plan.columns == 1 && plan.longest == 16 && plan.most_labels == 3));
    BOOST_TEST(covered(plan.pool_units) == 7);
    BOOST_TEST((to_string(empty) == "empty" && to_string(no_labels) == "no label tokens"));
    BOOST_TEST((to_string(no_labels_after_truncation) == "no label tokens after truncation" &&
                to_string(non_finite) == "not finite"));
}

BOOST_AUTO_TEST_CASE(a_task_or_a_pool_without_a_usable_sample_is_an_error) {
    const auto task = failure_of(ExitCode::bad_input, [] {
        plan_of(tiny_settings(), good_pool(9), corpus({{9, 3}, {8, 2}, {7, 0}}));
    });
    BOOST_TEST((task.field == "target b" && task.where == "b.h5"));
    const auto pool = failure_of(ExitCode::bad_input, [] {
        plan_of(tiny_settings(), corpus({{5, 0}, {0, 0}, {4, 0}}));
    });
    BOOST_TEST((contains(pool.found, "1 empty") && contains(pool.found, "2 no label tokens")));
    failure_of(ExitCode::bad_input, [] { plan_of(tiny_settings(), corpus({})); });
    const auto none = failure_of(ExitCode::bad_input, [] {
        const auto index = good_pool(4);
        const auto nothing = corpus({});
        make_plan(tiny_settings(), tiny_model(), {index, {{4, 0}}}, {nothing, {{0, 0}, {0, 0}}});
    });
    BOOST_TEST(none.field == "target a");
}

BOOST_AUTO_TEST_CASE(landmarks_are_a_shuffle_of_the_eligible_rows) {
    // the same draws on an array that is really there
    std::vector<Sample> samples;
    for (int i = 0; i < 10000; ++i) samples.push_back({5, i % 3 == 0 ? 0 : 1});
    const auto pool = corpus(samples);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < pool.size(); ++i) {
        if (i % 3 != 0) rows.push_back(i);
    }
    auto settings = tiny_settings();
    settings.landmarks = 3000;
    const Philox random(settings.seed, "landmarks");
    for (std::uint64_t i = 0; i < 3000; ++i) std::swap(rows[i], rows[i + random.below(rows.size() - i, i, 0)]);
    rows.resize(3000);
    BOOST_TEST(plan_of(settings, pool).landmarks == rows, boost::test_tools::per_element());
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
    auto settings = tiny_settings();
    settings.landmarks.reset();
    auto samples = std::vector<Sample>(100, {5, 1});
    samples[7] = {5, 0};
    BOOST_TEST(plan_of(settings, corpus(samples)).landmarks.size() == 99U);
    BOOST_TEST(plan_of(settings, good_pool(4096)).landmarks.size() == 4096U);
    const auto chosen = plan_of(settings, good_pool(5000));
    settings.landmarks = default_landmarks;
    const auto same = plan_of(settings, good_pool(5000));
    BOOST_TEST((chosen.landmarks.size() == 4096U && chosen.hash == same.hash));
}

BOOST_AUTO_TEST_CASE(a_growing_number_of_landmarks_appends) {
    auto settings = tiny_settings();
    settings.landmarks_auto = true;
    settings.landmarks.reset();
    const auto pool = good_pool(1000);
    const auto plan = plan_of(settings, pool);
    BOOST_TEST((plan.landmark_counts == std::vector<std::int64_t>{256, 512, 1000}));
    BOOST_TEST(plan.landmarks == landmarks(1000, 1000, settings.seed), boost::test_tools::per_element());
    for (const auto count : plan.landmark_counts) {
        BOOST_TEST(std::any_of(plan.landmark_units.begin(), plan.landmark_units.end(),
                               [count](const auto& unit) { return unit.rows.end() == count; }));
    }
    const auto counts = [&settings](std::int64_t rows, std::int64_t most) {
        settings.landmarks = most;
        return plan_of(settings, good_pool(rows)).landmark_counts;
    };
    BOOST_TEST((counts(1000, 600) == std::vector<std::int64_t>{256, 512, 600}));
    BOOST_TEST((counts(1000, 512) == std::vector<std::int64_t>{256, 512}));
    BOOST_TEST((counts(300, 600) == std::vector<std::int64_t>{256, 300}));
    BOOST_TEST((counts(100, 600) == std::vector<std::int64_t>{100}));
    settings.landmarks_auto = false;
    BOOST_TEST((counts(1000, 600) == std::vector<std::int64_t>{600}));
}

BOOST_AUTO_TEST_CASE(every_row_is_as_likely_a_landmark_as_any_other) {
    constexpr int seeds = 2000;
    std::vector<int> chosen(10), first(10);
    for (int seed = 0; seed < seeds; ++seed) {
        const auto rows = landmarks(10, 3, static_cast<std::uint64_t>(seed));
        BOOST_REQUIRE(std::set(rows.begin(), rows.end()).size() == 3U);
        for (const auto row : rows) ++chosen[static_cast<std::size_t>(row)];
        ++first[static_cast<std::size_t>(rows[0])];
    }
    const auto within = [](int count, double probability) {
        return std::abs(count - seeds * probability) < 5.0 * std::sqrt(seeds * probability * (1.0 - probability));
    };
    for (std::size_t row = 0; row < 10; ++row) BOOST_TEST((within(chosen[row], 0.3) && within(first[row], 0.1)));
}

BOOST_AUTO_TEST_CASE(samples_of_the_contrast_are_drawn_apart_from_the_landmarks_and_labelled_behind_the_targets) {
    std::vector<Sample> samples(50, {9, 3});
    samples[7] = {9, 0};
    const auto pool = corpus(samples);
    auto settings = tiny_settings();
    settings.contrast = 20;
    settings.landmarks = 20;
    const auto plan = plan_of(settings, pool);
    BOOST_TEST((plan.contrast_rows.size() == 20U && plan.labelled() == 23));
    const std::set<std::int64_t> rows(plan.contrast_rows.begin(), plan.contrast_rows.end());
    BOOST_TEST((rows.size() == 20U && !rows.contains(7) && *rows.begin() >= 0 && *rows.rbegin() < 50));
    BOOST_TEST((plan.contrast_rows != plan.landmarks));
    BOOST_TEST((plan.task_of(2) == 1 && plan.task_of(3) == 2));
    BOOST_TEST(covered(plan.target_units) == 23);
    BOOST_REQUIRE(plan.target_units.size() == 3U);
    BOOST_TEST((plan.target_units[2].rows == data::RowRange{3, 20}));
    const CostModel cost(tiny_model(), settings);
    BOOST_TEST(plan.target_units[2].flops == 20.0 * cost.gradient(8, 3), boost::test_tools::tolerance(1e-12));

    settings.contrast = 1000;
    BOOST_TEST(plan_of(settings, pool).contrast_rows.size() == 49U);  // all that are eligible
    settings.propagation = "none";
    settings.columns = "tasks";
    const auto contraction = plan_of(settings, pool);
    BOOST_TEST((covered(contraction.direction_units) == 52 && contraction.direction_units.size() == 3U));
    settings.contrast = 0;
    BOOST_TEST(plan_of(settings, pool).contrast_rows.empty());
}

// Four eligible samples of 10 tokens each, and two that do not count.
BOOST_AUTO_TEST_CASE(a_sketch_that_does_not_fit_is_refused_before_the_run) {
    auto settings = tiny_settings();
    settings.sketch = "hadamard";
    settings.sketch_dim = 97;
    BOOST_TEST(failure_of(ExitCode::usage, [&] { plan_of(settings, good_pool(9)); }).where == "--sketch-dim");
    settings.sketch = "kronecker";
    settings.sketch_dim = 2;
    BOOST_TEST(failure_of(ExitCode::usage, [&] { plan_of(settings, good_pool(9)); }).where == "--sketch-dim");
    settings.propagation = "none";
    settings.columns = "tasks";  // nothing is sketched
    BOOST_TEST(plan_of(settings, good_pool(9)).sketch.width == 0);
}

BOOST_AUTO_TEST_CASE(a_percentage_is_rounded_half_up_and_at_least_one) {
    BOOST_TEST((selected_count(5.0, 1000) == 50 && selected_count(100.0, 7) == 7));
    BOOST_TEST((selected_count(62.5, 4) == 3 && selected_count(62.4, 4) == 2));  // 2.5 and 2.496
    BOOST_TEST((selected_count(0.7, 1000) == 7 && selected_count(0.001, 10) == 1));
}

BOOST_AUTO_TEST_CASE(without_propagation_there_are_no_landmarks) {
    auto settings = tiny_settings();
    settings.propagation = "none";
    settings.jvp_blocks = 400;  // not used
    auto plan = plan_of(settings, good_pool(9));
    BOOST_TEST((plan.landmarks.empty() && plan.landmark_units.empty() && plan.embedding_width == 0));
    BOOST_TEST((plan.sketch.width == 12 && plan.columns == 3));
    BOOST_TEST(!contracts_with_tasks(settings));
    settings.columns = "tasks";
    plan = plan_of(settings, good_pool(9));
    BOOST_TEST((contracts_with_tasks(settings) && plan.sketch.width == 0 && plan.columns == 2));
    settings.propagation = "kernel-ridge";
    settings.jvp_blocks = 3;
    plan = plan_of(settings, good_pool(9));
    BOOST_TEST((!contracts_with_tasks(settings) && plan.sketch.width == 12 && plan.columns == 2 &&
                plan.landmarks.size() == 2U));
}

BOOST_AUTO_TEST_CASE(what_the_inputs_cannot_give_is_refused_before_the_run) {
    const auto refused = [](auto change, const data::CorpusIndex& pool) {
        auto settings = tiny_settings();
        change(settings);
        return failure_of(ExitCode::usage, [&] { plan_of(settings, pool); });
    };
    const auto pool = corpus({{5, 1, 0}, {5, 1, 0}, {5, 1, 1}, {5, 0, 1}});  // three eligible, two of them code
    BOOST_TEST(refused([](Settings& s) { s.jvp_blocks = 4; }, pool).where == "--jvp-blocks");
    const auto many = refused([](Settings& s) { s.select_percent.reset(), s.select_samples = 4; }, pool);
    BOOST_TEST((many.where == "--select" && contains(many.expected, "3") && many.found == "4"));
    BOOST_TEST(refused([](Settings& s) { s.select_percent = 100.0; }, pool).found == "4");
    const auto capped = refused([](Settings& s) { s.select_percent = 62.5, s.source_cap = {{"code", 1}}; }, pool);
    BOOST_TEST((contains(capped.expected, "2") && capped.found == "3" && contains(capped.remedy, "--source-cap")));
    const auto unknown = refused([](Settings& s) { s.source_cap = {{"mathss", 1}}; }, pool);
    BOOST_TEST((unknown.where == "--source-cap" && contains(unknown.remedy, "maths")));
    Settings shares;
    shares.source_share = {{"maths", 0.25}};
    BOOST_TEST((source_shares(shares, {"code", "maths"}) == std::map<std::int32_t, double>{{1, 0.25}}));
    const auto other = failure_of(ExitCode::usage, [&] { source_shares(shares, {"math"}); });
    BOOST_TEST((other.where == "--source-share" && contains(other.remedy, "math?")));

    auto settings = tiny_settings();
    settings.select_percent = 75.0;
    BOOST_TEST(plan_of(settings, pool).pool_rows == 4);
    settings.select_percent = 0.001;  // at least one
    BOOST_TEST(plan_of(settings, pool).pool_rows == 4);
    settings.select_percent.reset();
    settings.select_tokens = 1000000;
    BOOST_TEST(plan_of(settings, pool).pool_rows == 4);
}

BOOST_AUTO_TEST_CASE(rows_of_the_files_must_be_those_of_the_index) {
    const auto pool = good_pool(9);
    failure_of(ExitCode::internal_error, [&] {
        make_plan(tiny_settings(), tiny_model(), {pool, {{8, 0}}}, {default_targets, {{2, 0}, {1, 0}}});
    });
}

BOOST_AUTO_TEST_CASE(the_hash_follows_everything_that_is_planned) {
    const auto pool = good_pool(60);
    std::set<std::uint64_t> hashes{plan_of(tiny_settings(), pool).hash};
    BOOST_TEST(hashes.contains(plan_of(tiny_settings(), pool).hash));
    const auto differs = [&](const Plan& plan) { return hashes.insert(plan.hash).second; };
    const auto with = [&](auto change) {
        auto settings = tiny_settings();
        change(settings);
        return plan_of(settings, pool);
    };
    BOOST_TEST(differs(with([](Settings& s) { s.seed = 44; })));
    BOOST_TEST(differs(with([](Settings& s) { s.landmarks = 3; })));
    BOOST_TEST(differs(with([](Settings& s) { s.contrast = 3; })));
    BOOST_TEST(differs(with([](Settings& s) { s.contrast = 4; })));
    BOOST_TEST(differs(with([](Settings& s) { s.jvp_rank = 3; })));
    BOOST_TEST(differs(with([](Settings& s) { s.embedding_dim = 5; })));
    BOOST_TEST(differs(with([](Settings& s) { s.sketch_dim = 3; })));
    BOOST_TEST(differs(with([](Settings& s) { s.columns = "tasks"; })));
    BOOST_TEST(differs(with([](Settings& s) { s.refine = 2.0; })));
    BOOST_TEST(differs(with([](Settings& s) { s.propagation = "none"; })));
    BOOST_TEST(differs(with([](Settings& s) { s.propagation = "none", s.columns = "tasks"; })));
    BOOST_TEST(differs(plan_of(tiny_settings(), good_pool(61))));
    BOOST_TEST(differs(plan_of(tiny_settings(), pool, corpus({{9, 3}, {8, 2}, {7, 2}}))));
    BOOST_TEST(differs(plan_of(tiny_settings(), pool, corpus({{9, 3}, {8, 0}, {7, 1}}))));
}

BOOST_AUTO_TEST_SUITE_END()
