// The stages of a run, one after the other as pipeline.cpp does them, on a small folder and with ranks that are
// threads: values by closed form, the same result for any number of ranks, and what `select` makes of it.

#include "stages_expected.hpp"

using namespace stages_test;

BOOST_AUTO_TEST_SUITE(stages_of_a_run)

BOOST_AUTO_TEST_CASE(every_sample_exact) {
    const SmallFolder folder(pool_rows);
    const io::ResultReader result(run_on_all(folder, exactly, small_units));
    const auto origins = own_origins(pool_rows);
    check_rows(result, origins, [](std::int64_t) { return true; });
    check_picks(result, picks_by_turns(origins, {}, 7));
    check_columns(result);
}

BOOST_AUTO_TEST_CASE(propagated_from_landmarks) {
    const SmallFolder folder(pool_rows);
    const io::ResultReader result(run_on_all(folder, propagated, small_units));
    const auto landmarks = landmarks_of(pool_rows, 30);
    BOOST_TEST(std::any_of(landmarks.begin(), landmarks.end(), is_not_finite));  // else nothing is listed
    const auto origins = propagated_origins(pool_rows, landmarks, {});
    check_rows(result, origins, [&](std::int64_t row) { return contains(landmarks, row); });
    check_picks(result, picks_by_turns(origins, {}, 7));
    check_columns(result);
    check_landmarks(result, landmarks);
}

BOOST_AUTO_TEST_CASE(the_best_predicted_samples_refined) {
    const SmallFolder folder(pool_rows);
    const io::ResultReader result(run_on_all(folder, refined, small_units));
    const auto landmarks = landmarks_of(pool_rows, 30);
    const auto shortlist = sorted_rows(picks_by_turns(propagated_origins(pool_rows, landmarks, {}), landmarks, 14));
    BOOST_TEST(std::any_of(shortlist.begin(), shortlist.end(), is_not_finite));
    const auto origins = propagated_origins(pool_rows, landmarks, shortlist);
    check_rows(result, origins, [&](std::int64_t row) { return contains(landmarks, row) || contains(shortlist, row); });
    check_picks(result, picks_by_turns(origins, {}, 7));
    BOOST_TEST(result.attribute("refine_shortlist") == "14");
    BOOST_TEST(result.attribute("refine_factor") == "2.000000");
}

BOOST_AUTO_TEST_CASE(landmarks_are_added_while_that_is_worth_it) {
    constexpr std::int64_t rows = 640;
    const SmallFolder folder(rows);
    std::map<std::string, std::string> first;
    for (const int ranks : rank_counts) {
        const auto out = folder / ("out" + std::to_string(ranks) + ".h5");
        Script script;
        script.task_r2 = {0.25, 0.25, 0.5};
        run_on_threads(
            ranks,
            small_values(folder, out,
                         {"--landmarks", "auto", "--selection", "round-robin", "--select", "9", "--seed", "43"}, 500.0),
            script);
        const auto contents = contents_of(out);
        if (ranks == 1) first = contents;
        BOOST_TEST(differing(contents, first) == "", ranks << " ranks");
        // 256, 512 and all of them are planned; the doubling to 512 gains nothing.
        BOOST_TEST(std::ssize(script.landmarks) > 512);
        const auto landmarks = landmarks_of(rows, 512);
        const io::ResultReader result(out);
        check_landmarks(result, landmarks);
        check_rows(result, propagated_origins(rows, landmarks, {}),
                   [&](std::int64_t row) { return contains(landmarks, row); });
        BOOST_TEST((result.read<std::int64_t>("/landmark/growth/landmarks") == Rows{256, 512}));
        BOOST_TEST((result.read<double>("/landmark/growth/loo_r2") == std::vector<double>{0.25, 0.25}));
    }
}

BOOST_AUTO_TEST_CASE(weights_above_the_next_best) {
    const SmallFolder folder(pool_rows);
    const io::ResultReader result(run_on_all(
        folder, {"--propagation", "none", "--selection", "weighted", "--order", "first-order", "--select", "7"},
        small_units));
    const auto expected = optimal_weights(own_origins(pool_rows), 7);
    const auto weight = result.read<float>("/weight");
    BOOST_TEST_REQUIRE(weight.size() == expected.size());
    for (std::size_t row = 0; row < expected.size(); ++row)
        BOOST_TEST(std::abs(static_cast<double>(weight[row]) - expected[row]) < 1e-4, "row " << row);
    BOOST_TEST((result.read<std::int32_t>("/selected/column") == std::vector<std::int32_t>(7, -1)));
}

BOOST_AUTO_TEST_CASE(more_ranks_than_units_and_units_as_they_come) {
    const SmallFolder folder(pool_rows);
    const auto out = folder / "small_units.h5";
    Script script;
    run_on_threads(2, small_values(folder, out, refined, small_units), script);
    BOOST_TEST(script.units.at("pool").size() > 5U);
    const auto whole = run_on_all(folder, refined, 1e9);  // a unit a stage
    BOOST_TEST(differing(contents_of(whole), contents_of(out)) == "");
}

BOOST_AUTO_TEST_CASE(ranks_without_a_row_of_the_pool) {
    const SmallFolder folder(4);
    const io::ResultReader result(
        run_on_all(folder, {"--landmarks", "2", "--selection", "round-robin", "--select", "2"}, small_units));
    const auto landmarks = landmarks_of(4, 2);
    const auto origins = propagated_origins(4, landmarks, {});
    check_rows(result, origins, [&](std::int64_t row) { return contains(landmarks, row); });
    check_picks(result, picks_by_turns(origins, {}, 2));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(stages_of_a_run_and_select)

namespace {

void select_from(const std::string& result, const std::string& out, const Words& words, int ranks) {
    const auto values = parsed(joined({"select", "--result", result, "--out", out}, words));
    const stages::Command command{program_options(), values, "a test"};
    run_ranks_as_threads(
        ranks, [&](comm::Communicator& comm) { stages::select_again(command, comm); }, 20.0);
}

}  // namespace

// The rule of a run is replaced by another one's and put back: each time the file is that of a run with this rule.
BOOST_AUTO_TEST_CASE(select_gives_what_a_run_selects) {
    const SmallFolder folder(pool_rows);
    const Words run{"--landmarks", "30"};
    const std::vector<Words> rules{
        {"--selection", "round-robin", "--select", "7"},
        {"--selection", "weighted", "--order", "first-order", "--select", "9"},
        {"--selection", "round-robin", "--select-tokens", "150", "--source-cap", "source 1=3"},
        {"--selection", "top-k", "--top-k-by", "max", "--select", "10%"},
        {"--selection", "random", "--select", "6"},
        {"--selection", "weighted", "--order", "second-order", "--curvature", "hessian", "--learning-rate", "0.5",
         "--select", "8"}};
    std::vector<std::string> results;
    std::vector<std::map<std::string, std::string>> expected;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        results.push_back(folder / ("rule" + std::to_string(i) + ".h5"));
        Script script;
        run_on_threads(2, small_values(folder, results.back(), joined(run, rules[i]), small_units), script);
        expected.push_back(contents_of(results.back()));
    }
    const auto of_hessian = results.back();  // the one that has what all of them need
    for (std::size_t i = 0; i < rules.size(); ++i) {
        const auto other = folder / "other.h5", again = folder / "again.h5";
        BOOST_TEST(differing(expected[i], expected[(i + 1) % rules.size()]) != "");
        for (const int ranks : rank_counts) {
            select_from(of_hessian, other, rules[(i + 1) % rules.size()], ranks);
            BOOST_TEST(differing(contents_of(other), expected[(i + 1) % rules.size()]) == "", ranks << " ranks");
            select_from(other, again, rules[i], ranks);
            BOOST_TEST(differing(contents_of(again), expected[i]) == "", "rule " << i << ", " << ranks << " ranks");
            std::filesystem::remove(other);
            std::filesystem::remove(again);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
