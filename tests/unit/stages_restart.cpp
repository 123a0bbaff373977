// The stages of a run that was stopped, and of ranks that fail, with ranks that are threads.

#include <chrono>

#include "error_of.hpp"
#include "stages_expected.hpp"
#include "state_files.hpp"

using namespace stages_test;

namespace {

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

BOOST_AUTO_TEST_CASE(a_state_of_another_device_is_refused_by_name) {
    const SmallFolder folder(pool_rows);
    auto values = small_values(folder, folder / "out.h5", refined, small_units);
    auto& gpu = values.of<options::RunSettings>().gpu.name;
    const auto stop = [&] {
        Script script;
        script.fail_exact_at = 2;
        run_on_threads(2, values, script);
    };
    gpu = "NVIDIA H100";
    BOOST_CHECK_THROW(stop(), std::domain_error);
    for (const auto* other : {"NVIDIA A100", ""}) {
        gpu = other;
        const auto refused = error_of(stop);
        BOOST_REQUIRE(refused.has_value());
        BOOST_TEST((refused->code() == ExitCode::state_mismatch));
        const std::string text = refused->what();
        for (const char* part : {"device model", "NVIDIA H100"}) BOOST_TEST(text.find(part) != std::string::npos, text);
    }
    gpu = "NVIDIA H100";
    BOOST_CHECK_THROW(stop(), std::domain_error);  // goes on, and is stopped again
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
