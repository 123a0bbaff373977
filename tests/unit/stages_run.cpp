// The stages of a run, one after the other as pipeline.cpp does them, on a small folder and with ranks that are
// threads: values by closed form, the same result for any number of ranks, restarts, and ranks that fail.

#include <fmt/format.h>

#include <array>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <numeric>
#include <set>

#include "error_of.hpp"
#include "idistill/base/seeded_permutation.hpp"
#include "small_runs.hpp"
#include "state_files.hpp"

using namespace idistill;
using namespace idistill::test;
using comm::run_ranks_as_threads;

namespace {

constexpr std::array rank_counts{1, 2, 3, 5};
constexpr std::int64_t pool_rows = 97;
constexpr double small_units = 40.0;  // planned cost: a few samples
const std::vector<std::int64_t> kept{0, 2, 3, 4};
const std::vector<std::int32_t> column_task{0, 0, 1, 1};

const Words exactly{"--propagation", "none", "--selection", "round-robin", "--select", "7"};
const Words propagated{"--landmarks", "30", "--selection", "round-robin", "--select", "7"};
const Words refined = joined(propagated, {"--refine", "2"});

// --- what a run should find -----------------------------------------------------------------------------------------

/// Rows of the pool whose numbers a row of the result has: its own, its nearest landmark's, or none.
using Origins = std::vector<std::optional<std::int64_t>>;
using Rows = std::vector<std::int64_t>;

bool contains(const Rows& rows, std::int64_t row) { return std::find(rows.begin(), rows.end(), row) != rows.end(); }

Origins own_origins(std::int64_t rows) {
    Origins origins(static_cast<std::size_t>(rows));
    for (std::int64_t row = 0; row < rows; ++row)
        if (!is_quarantined(row)) origins[static_cast<std::size_t>(row)] = row;
    return origins;
}

std::int64_t nearest_landmark(std::int64_t row, const Rows& landmarks) {
    std::optional<std::pair<std::int64_t, std::int64_t>> best;
    for (const auto landmark : landmarks) {
        if (is_not_finite(landmark)) continue;
        const std::pair candidate(std::abs(tokens_of(landmark) - tokens_of(row)), landmark);
        if (!best || candidate < *best) best = candidate;
    }
    return best.value().second;
}

Origins propagated_origins(std::int64_t rows, const Rows& landmarks, const Rows& refined_rows) {
    auto origins = own_origins(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
        auto& origin = origins[static_cast<std::size_t>(row)];
        if (is_unusable(row)) origin.reset();
        if (origin && !contains(landmarks, row) && !contains(refined_rows, row))
            origin = nearest_landmark(row, landmarks);
    }
    return origins;
}

bool is_finite(const std::optional<std::int64_t>& origin) { return origin && !is_not_finite(*origin); }

/// Rows that the columns pick by turns, the best first, of those that have finite influence.
std::vector<selection::Pick> picks_by_turns(const Origins& origins, const Rows& left_out, std::int64_t count) {
    std::set<std::int64_t> taken(left_out.begin(), left_out.end());
    std::vector<selection::Pick> picks;
    for (std::size_t turn = 0; std::ssize(picks) < count; ++turn) {
        const auto column = std::array{0, 2, 1, 3}.at(turn % 4);  // first of each task, then second
        std::optional<std::int64_t> best;
        const auto value = [&](std::int64_t row) {
            return influence_of(*origins[static_cast<std::size_t>(row)], kept[static_cast<std::size_t>(column)]);
        };
        for (std::int64_t row = 0; row < std::ssize(origins); ++row)
            if (is_finite(origins[static_cast<std::size_t>(row)]) && !taken.contains(row) &&
                (!best || value(row) > value(*best)))
                best = row;
        picks.push_back({best.value(), column});
        taken.insert(*best);
    }
    return picks;
}

/// Weights with sum N that optimise the mean over the columns less their spread: what lies above the next best.
std::vector<double> optimal_weights(const Origins& origins, std::size_t count) {
    std::vector<std::pair<double, std::size_t>> means;
    for (std::size_t row = 0; row < origins.size(); ++row) {
        if (!is_finite(origins[row])) continue;
        double sum = 0.0;
        for (const auto target : kept) sum += static_cast<double>(influence_of(*origins[row], target));
        means.emplace_back(sum / 4.0, row);
    }
    std::sort(means.rbegin(), means.rend());
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += means[i].first - means[count].first;
    std::vector<double> weights(origins.size(), 0.0);
    for (std::size_t i = 0; i < count; ++i)
        weights[means[i].second] = static_cast<double>(origins.size()) * (means[i].first - means[count].first) / sum;
    return weights;
}

bool same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; }

/// Checks what the result says of every row of the pool; `computed`: those whose own influence it has.
void check_rows(const io::ResultReader& result, const Origins& origins,
                const std::function<bool(std::int64_t)>& computed) {
    const auto rows = std::ssize(origins);
    const auto influence = result.read<float>("/influence"), score = result.read<float>("/score");
    const auto size = result.read<float>(size_dataset), extra = result.read<float>(extra_dataset);
    const auto spread = result.read<float>(spread_dataset);
    const auto exact = result.read<std::uint8_t>("/exact");
    const auto tokens = result.read<std::int32_t>("/tokens"), source = result.read<std::int32_t>("/source/index");
    const auto ids = result.read_strings("/id");
    BOOST_TEST_REQUIRE(std::ssize(influence) == rows * 4);
    BOOST_TEST_REQUIRE(std::ssize(score) == rows * 2);
    BOOST_TEST_REQUIRE(std::ssize(size) == rows);
    BOOST_TEST_REQUIRE(std::ssize(extra) == rows * extra_width);
    BOOST_TEST_REQUIRE(std::ssize(spread) == rows * spread_width);
    BOOST_TEST(result.width(size_dataset) == 0);  // of one number: a vector
    std::string wrong;
    Rows listed;
    std::vector<std::string> reasons;
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto i = static_cast<std::size_t>(row);
        const auto& origin = origins[i];
        const bool finite = is_finite(origin);
        const auto expect = [&](bool holds, const char* what) {
            if (!holds) wrong += fmt::format("{} of row {}; ", what, row);
        };
        const auto of = [&](std::int64_t target) { return finite ? influence_of(*origin, target) : unknown; };
        for (std::size_t c = 0; c < kept.size(); ++c) expect(same(influence[i * 4 + c], of(kept[c])), "influence");
        for (std::int64_t c = 0; c < extra_width; ++c)
            expect(same(extra[i * extra_width + static_cast<std::size_t>(c)], finite ? extra_of(*origin, c) : unknown),
                   "extra");
        expect(same(size[i], origin ? size_of(*origin) : unknown), "size");
        for (std::int64_t c = 0; c < spread_width; ++c)
            expect(
                same(spread[i * spread_width + static_cast<std::size_t>(c)], origin ? spread_of(*origin, c) : unknown),
                "spread");
        expect(same(score[i * 2], (of(0) + of(2)) / 2.0F) && same(score[i * 2 + 1], (of(3) + of(4)) / 2.0F), "score");
        expect(exact[i] == (finite && computed(row) ? 1 : 0), "exact");
        expect(tokens[i] == tokens_of(row) && source[i] == row % 3, "tokens or source");
        expect(ids[i] == "sample " + std::to_string(row), "id");
        if (finite) continue;
        listed.push_back(row);
        reasons.emplace_back(is_empty(row)                        ? "empty"
                             : !has_no_labels(row)                ? "not finite"
                             : tokens_of(row) == small_max_length ? "no label tokens after truncation"
                                                                  : "no label tokens");
    }
    BOOST_TEST(wrong == "");
    BOOST_TEST(result.read<std::int64_t>("/quarantine/index") == listed, boost::test_tools::per_element());
    BOOST_TEST(result.read_strings("/quarantine/reason") == reasons, boost::test_tools::per_element());
}

void check_picks(const io::ResultReader& result, const std::vector<selection::Pick>& picks) {
    std::vector<float> weights(static_cast<std::size_t>(result.row_count("/influence")), 0.0F);
    Rows rows;
    std::vector<std::int32_t> columns;
    std::vector<std::string> ids;
    std::int64_t tokens = 0;
    for (const auto& pick : picks) {
        rows.push_back(pick.row);
        columns.push_back(pick.column);
        ids.push_back("sample " + std::to_string(pick.row));
        tokens += tokens_of(pick.row);
        weights[static_cast<std::size_t>(pick.row)] =
            static_cast<float>(static_cast<double>(weights.size()) / static_cast<double>(picks.size()));
    }
    BOOST_TEST(result.read<std::int64_t>("/selected/index") == rows, boost::test_tools::per_element());
    BOOST_TEST(result.read<std::int32_t>("/selected/column") == columns, boost::test_tools::per_element());
    BOOST_TEST(result.read_strings("/selected/id") == ids, boost::test_tools::per_element());
    BOOST_TEST(result.read<float>("/weight") == weights, boost::test_tools::per_element());
    BOOST_TEST(result.attribute("selected_tokens") == std::to_string(tokens));
}

/// What a result says beside the pool's rows: columns, tasks and targets that were left out.
void check_columns(const io::ResultReader& result) {
    BOOST_TEST((result.read<std::int32_t>("/column/task") == column_task));
    BOOST_TEST((result.read<std::int64_t>("/column/target") == kept));
    BOOST_TEST((result.read_strings("/column/name") ==
                std::vector<std::string>{"code.h51", "code.h53", "maths.h50", "maths.h51"}));
    BOOST_TEST((result.read_strings("/task/name") == std::vector<std::string>{"code", "maths"}));
    BOOST_TEST((result.read<std::int64_t>("/target_quarantine/index") == Rows{0, 2}));
    BOOST_TEST((result.read_strings("/target_quarantine/reason") ==
                std::vector<std::string>{"no label tokens", "not finite"}));
}

void check_landmarks(const io::ResultReader& result, const Rows& landmarks) {
    BOOST_TEST(result.read<std::int64_t>("/landmark/index") == landmarks, boost::test_tools::per_element());
    const auto influence = result.read<float>("/landmark/influence"), loo = result.read<float>("/landmark/loo");
    BOOST_TEST_REQUIRE(influence.size() == landmarks.size() * 4);
    std::string wrong;
    for (std::size_t i = 0; i < landmarks.size(); ++i) {
        for (std::size_t c = 0; c < 4; ++c) {
            const bool finite = !is_not_finite(landmarks[i]) || c != 1;
            const float expected = finite ? influence_of(landmarks[i], kept[c]) : unknown;
            if (!same(influence[i * 4 + c], expected) || !same(loo[i * 4 + c], expected + 1.0F))
                wrong += fmt::format("landmark {}; ", landmarks[i]);
        }
    }
    BOOST_TEST(wrong == "");
}

Rows landmarks_of(std::int64_t rows, std::int64_t count) {
    std::vector<std::uint8_t> eligible;
    for (std::int64_t row = 0; row < rows; ++row) eligible.push_back(is_quarantined(row) ? 0 : 1);
    return first_of_permutation(eligible, 43, "landmarks", count);
}

Rows sorted_rows(std::vector<selection::Pick> picks) {
    Rows rows;
    for (const auto& pick : picks) rows.push_back(pick.row);
    std::sort(rows.begin(), rows.end());
    return rows;
}

// --- runs -----------------------------------------------------------------------------------------------------------

/// Runs with every number of ranks; their results must be the same. Gives the path of one.
std::string run_on_all(const SmallFolder& folder, const Words& words, double unit_flops) {
    const auto name = [&](int ranks) { return folder / ("ranks" + std::to_string(ranks) + ".h5"); };
    for (const int ranks : rank_counts) {
        Script script;
        run_on_threads(ranks, small_values(folder, name(ranks), words, unit_flops), script);
        BOOST_TEST(differing(contents_of(name(ranks)), contents_of(name(1))) == "", ranks << " ranks");
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".state"));
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".lock"));
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".partial"));
    }
    return name(1);
}

/// Rows in the units of a stage that its state does not have as done.
Rows open_places(const std::string& state, const std::string& stage, const std::vector<data::WorkUnit>& units) {
    const auto done = contents_of(state).at("/" + stage + "/done");
    Rows places;
    for (std::size_t unit = 0; unit < units.size(); ++unit)
        for (auto place = units[unit].rows.first; done[unit] != 1 && place < units[unit].rows.end(); ++place)
            places.push_back(place);
    return places;
}

/// What a restart has to compute, from the state that the first start left.
struct Owed {
    Rows exact, predicted;
};

Owed owed_by(const std::string& state, const Script& whole) {
    Owed owed;
    for (const auto place : open_places(state, "landmarks", whole.units.at("landmarks")))
        owed.exact.push_back(whole.landmarks[static_cast<std::size_t>(place)]);
    for (const auto row : open_places(state, "pool", whole.units.at("pool")))
        if (!is_quarantined(row) && !is_unusable(row) && !contains(whole.landmarks, row)) owed.predicted.push_back(row);
    for (const auto place : open_places(state, "refine", whole.units.at("refine")))
        if (place < std::ssize(whole.refined)) owed.exact.push_back(whole.refined[static_cast<std::size_t>(place)]);
    std::sort(owed.exact.begin(), owed.exact.end());
    return owed;
}

Rows in_order(Rows rows) {
    std::sort(rows.begin(), rows.end());
    return rows;
}

/// A refined run that nothing stops, to compare with.
struct Whole {
    Script script;
    std::map<std::string, std::string> contents;

    explicit Whole(const SmallFolder& folder) {
        const auto out = folder / "whole.h5";
        run_on_threads(2, small_values(folder, out, refined, small_units), script);
        contents = contents_of(out);
    }
};

/// Continues a refined run: only what is owed is computed, and the result is that of the whole run.
void check_continued(const SmallFolder& folder, const std::string& out, const Whole& whole, int ranks,
                     const std::string& what) {
    const auto owed = owed_by(out + ".state", whole.script);
    Script script;
    run_on_threads(ranks, small_values(folder, out, refined, small_units), script);
    BOOST_TEST(in_order(script.exact_rows) == owed.exact, what << ": exact rows");
    BOOST_TEST(in_order(script.predicted_rows) == owed.predicted, what << ": predicted rows");
    BOOST_TEST(differing(contents_of(out), whole.contents) == "", what);
    BOOST_TEST(!std::filesystem::exists(out + ".state"));
}

}  // namespace

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

BOOST_AUTO_TEST_SUITE(stages_of_a_restarted_run)

BOOST_AUTO_TEST_CASE(only_unfinished_units_are_computed_again) {
    const SmallFolder folder(pool_rows);
    const Whole whole(folder);
    const auto of_landmarks = static_cast<int>(whole.script.units.at("landmarks").size());
    struct Start {
        const char* what;
        int exact, predict, ranks, continued_by;
    };
    const std::vector<Start> starts{{"first landmarks", 1, 0, 1, 3},
                                    {"landmarks", 3, 0, 3, 2},
                                    {"landmarks of one rank", 4, 0, 1, 5},
                                    {"propagation", 0, 3, 2, 1},
                                    {"propagation of one rank", 0, 2, 1, 2},
                                    {"refinement", of_landmarks + 2, 0, 1, 3},
                                    {"refinement of several", of_landmarks + 1, 0, 5, 2}};
    for (const auto& start : starts) {
        const auto out = folder / (std::string(start.what) + ".h5");
        Script script;
        script.fail_exact_at = start.exact;
        script.fail_predict_at = start.predict;
        const auto values = small_values(folder, out, refined, small_units);
        BOOST_CHECK_THROW(run_on_threads(start.ranks, values, script), std::domain_error);
        BOOST_TEST(!std::filesystem::exists(out));
        const auto owed = owed_by(out + ".state", whole.script);
        BOOST_TEST(owed.exact.size() + owed.predicted.size() > 0U, start.what);
        check_continued(folder, out, whole, start.continued_by, start.what);
    }
}

BOOST_AUTO_TEST_CASE(a_run_that_stops_again_and_again) {
    const SmallFolder folder(pool_rows);
    const Whole whole(folder);
    const auto out = folder / "out.h5";
    for (const int ranks : {1, 2, 3}) {
        Script script;
        script.fail_exact_at = 2;
        BOOST_CHECK_THROW(run_on_threads(ranks, small_values(folder, out, refined, small_units), script),
                          std::domain_error);
    }
    check_continued(folder, out, whole, 5, "after three starts");
}

BOOST_AUTO_TEST_CASE(a_unit_that_changed_on_disk_is_computed_again) {
    const SmallFolder folder(pool_rows);
    const Whole whole(folder);
    struct Damage {
        const char* dataset;
        const char* stage;
        std::size_t unit;
        std::int64_t row_bytes;
    };
    const std::vector<Damage> damages{{"/landmarks/embedding", "landmarks", 2, 8},
                                      {"/landmarks/influence", "landmarks", 0, 28},
                                      {"/pool/influence", "pool", 3, 28},
                                      {"/pool/norm", "pool", 1, 12},
                                      {"/refine/norm", "refine", 1, 12}};
    int ranks = 0;
    for (const auto& damage : damages) {
        const auto out = folder / "out.h5";
        const auto values = small_values(folder, out, refined, small_units);
        Script script;
        script.stop_before = "write";
        script.stop_rank = -1;
        BOOST_CHECK_THROW(run_on_threads(2, values, script), std::domain_error);
        const auto& unit = whole.script.units.at(damage.stage).at(damage.unit);
        flip_byte(out + ".state", damage.dataset, (unit.rows.end() - 1) * damage.row_bytes + 1);
        Script again;
        run_on_threads(1 + ++ranks % 3, values, again);
        Rows exact, predicted;
        for (auto place = unit.rows.first; place < unit.rows.end(); ++place) {
            const auto i = static_cast<std::size_t>(place);
            if (damage.stage == std::string("landmarks")) exact.push_back(whole.script.landmarks[i]);
            if (damage.stage == std::string("refine")) exact.push_back(whole.script.refined[i]);
            if (damage.stage == std::string("pool") && !is_quarantined(place) && !is_unusable(place) &&
                !contains(whole.script.landmarks, place))
                predicted.push_back(place);
        }
        BOOST_TEST(again.exact_rows == exact, damage.dataset);
        BOOST_TEST(again.predicted_rows == predicted, damage.dataset);
        BOOST_TEST(differing(contents_of(out), whole.contents) == "", damage.dataset);
    }
}

BOOST_AUTO_TEST_CASE(what_only_decides_the_selection_may_change) {
    const SmallFolder folder(pool_rows);
    const auto out = folder / "out.h5", straight = folder / "straight.h5";
    Script first, second, third, other;
    first.stop_before = "select";
    BOOST_CHECK_THROW(run_on_threads(2, small_values(folder, out, exactly, small_units), first), std::domain_error);
    const Words weights{"--propagation", "none", "--selection", "weighted", "--order", "first-order", "--select", "9"};
    run_on_threads(3, small_values(folder, out, weights, small_units), second);
    BOOST_TEST(second.exact_rows.empty());
    run_on_threads(1, small_values(folder, straight, weights, small_units), third);
    BOOST_TEST(differing(contents_of(out), contents_of(straight)) == "");

    first.stop_before = "exact";
    BOOST_CHECK_THROW(run_on_threads(2, small_values(folder, out, exactly, small_units), first), std::domain_error);
    const auto error = error_of([&] { run_on_threads(3, small_values(folder, out, propagated, small_units), other); });
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::state_mismatch));
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

BOOST_AUTO_TEST_SUITE(stages_of_a_rank_that_fails)

// Nobody waits for a rank that failed before it came to what the others are in.
BOOST_AUTO_TEST_CASE(all_ranks_end_with_its_error) {
    const SmallFolder folder(pool_rows);
    const Whole whole(folder);
    const auto begun = std::chrono::steady_clock::now();
    for (const char* stage :
         {"targets", "landmarks", "solve", "propagate", "refine", "select", "report", "write", "remove"}) {
        for (const int ranks : {1, 2, 3, 5}) {
            const auto out = folder / "out.h5";
            const auto values = small_values(folder, out, refined, small_units);
            Script script;
            script.stop_before = stage;
            script.stop_rank = ranks / 2;
            std::string thrown;
            try {
                run_on_threads(ranks, values, script);
            } catch (const std::domain_error& error) {
                thrown = error.what();
            }
            BOOST_TEST(thrown == stage, ranks << " ranks");
            BOOST_TEST(std::filesystem::exists(out) == (thrown == "remove"));
            check_continued(folder, out, whole, 1 + ranks % 3, stage);
            std::filesystem::remove(out);
        }
    }
    BOOST_TEST(std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() < 120.0);
}

BOOST_AUTO_TEST_CASE(a_second_job_is_kept_off) {
    const SmallFolder folder(pool_rows);
    const auto out = folder / "out.h5";
    const auto values = small_values(folder, out, exactly, small_units);
    std::optional<Error> refused;
    run_ranks_as_threads(1, [&](comm::Communicator& comm) {
        const work::RunLock lock(comm, out);
        Script script;
        refused = error_of([&] { run_on_threads(2, values, script); });
    });
    BOOST_TEST_REQUIRE(refused.has_value());
    BOOST_TEST(static_cast<int>(refused->code()) == static_cast<int>(ExitCode::locked));
    BOOST_TEST(!std::filesystem::exists(out + ".state"));
}

BOOST_AUTO_TEST_SUITE_END()
