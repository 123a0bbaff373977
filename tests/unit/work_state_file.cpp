// State files and the lock of a run, with ranks that are threads; tests/ranks/state_file.cpp is about MPI's.

#include <array>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "error_of.hpp"
#include "findings.hpp"
#include "idistill/comm/claims.hpp"
#include "idistill/comm/thread_group.hpp"
#include "idistill/work/run_lock.hpp"
#include "idistill/work/state_file.hpp"
#include "state_files.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::work;
using namespace idistill::test;
using idistill::comm::Communicator;
using idistill::comm::run_ranks_as_threads;

namespace {

constexpr std::array rank_counts{1, 2, 3, 5};

using Marks = std::vector<std::uint8_t>;

/// Of several ranks each writes its share of the units.
void write_shared(const Communicator& ranks, StateFile& state, const std::vector<std::int64_t>& units) {
    for (const auto unit : units)
        if (unit % ranks.size() == ranks.rank()) write(state, unit);
}

/// Makes a state with these units finished, and drops it.
void leave_state(const std::string& path, int size, const std::vector<std::int64_t>& units) {
    run_ranks_as_threads(size, [&](Communicator& ranks) {
        StateFile state(ranks, path, identity, stages());
        write_shared(ranks, state, units);
    });
}

/// The units that `size` ranks find finished; empty where they do not agree.
Marks marks_found(const std::string& path, int size) {
    std::vector<Marks> found(static_cast<std::size_t>(size));
    run_ranks_as_threads(size, [&](Communicator& ranks) {
        const StateFile state(ranks, path, identity, stages());
        found[static_cast<std::size_t>(ranks.rank())] = marks(state);
    });
    for (const auto& of_rank : found)
        if (of_rank != found[0]) return {};
    return found[0];
}

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(state_file_of_threads)

BOOST_AUTO_TEST_CASE(units_of_several_ranks_are_read_by_all_and_recovered) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.state";
        Findings wrong;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            {
                StateFile state(ranks, path, identity, stages());
                wrong.expect(marks(state) == Marks{0, 0, 0, 0} && state.recovered("targets").empty(), "a new state");
                write_shared(ranks, state, {3, 2, 0});
                state.sync();
                for (const std::int64_t unit : {0, 2, 3}) wrong.expect(holds(state, unit), "units after sync");
            }  // dropped, and opened at once: a slower rank may not have dropped its own yet
            StateFile state(ranks, path, identity, stages());
            wrong.expect(marks(state) == Marks{1, 0, 1, 1} && state.units_recovered() == 3, "what is recovered");
            for (const std::int64_t unit : {0, 2, 3}) wrong.expect(holds(state, unit), "recovered units");
            write_shared(ranks, state, {1});
            state.sync();
            wrong.expect(holds(state, 1), "a unit done after a restart");
            state.remove();
            wrong.expect(!std::filesystem::exists(path) && !std::filesystem::exists(path + ".new"), "remove");
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
    }
}

BOOST_AUTO_TEST_CASE(a_unit_that_is_claimed_is_written_while_others_write) {
    constexpr std::int64_t units = 200;
    constexpr std::int64_t rows = 3;
    std::vector<plan::Stage> layout{{.name = "pool", .title = {}, .columns = {{"x", 7}}, .units = {}}};
    std::vector<std::int64_t> order;
    for (std::int64_t unit = 0; unit < units; ++unit) {
        layout[0].units.push_back({{unit * rows, rows}, 1.0});
        order.push_back(unit);
    }
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        Findings wrong;
        std::atomic<int> reported = 0;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            StateFile state(ranks, folder / "out.state", identity, layout);
            {
                const auto claims = comm::make_work_claims(ranks, order, [&](std::int64_t) { ++reported; });
                while (const auto unit = claims->next()) {
                    const auto of_unit = values(layout[0].units[static_cast<std::size_t>(*unit)].rows, 7, 0.5F);
                    const std::span<const float> column(of_unit);
                    state.write_unit("pool", *unit, std::span(&column, 1));
                    claims->finished(*unit);
                }
            }
            state.sync();
            for (const auto& unit : layout[0].units) {
                std::vector<float> found(rows * 7);
                state.read("pool", "x", unit.rows, found);
                wrong.expect(std::memcmp(found.data(), values(unit.rows, 7, 0.5F).data(), rows * 7 * 4) == 0, "rows");
            }
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
        BOOST_TEST(reported == units);
    }
}

// What is on disk at any moment is what a killed run leaves: here a copy of the file while all have it open.
BOOST_AUTO_TEST_CASE(a_killed_run_leaves_the_units_that_were_written) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.state", killed = folder / "killed.state";
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            StateFile state(ranks, path, identity, stages());
            write_shared(ranks, state, {0, 1, 3});
            ranks.barrier();  // no sync
            if (ranks.is_root()) std::filesystem::copy_file(path, killed);
            ranks.barrier();
        });
        BOOST_TEST((marks_found(killed, size) == Marks{1, 1, 0, 1}));
        flip_byte(killed, "/pool/done", 1, 1);  // its rows and checksum are there, its mark is not
        BOOST_TEST((marks_found(killed, size) == Marks{1, 0, 0, 1}));
    }
}

BOOST_AUTO_TEST_CASE(a_unit_whose_rows_changed_is_done_again) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.state";
        leave_state(path, size, {0, 1, 2, 3});
        flip_byte(path, "/pool/influence", (4 * 3 + 1) * 4 + 2);  // row 4: unit 1
        flip_byte(path, "/pool/norm", 9 * 4);                     // row 9: unit 3
        flip_byte(path, "/pool/checksum", 2 * 8);                 // unit 2
        BOOST_TEST((marks_found(path, size) == Marks{1, 0, 0, 0}));
        leave_state(path, size, {1, 2, 3});
        BOOST_TEST((marks_found(path, size) == Marks{1, 1, 1, 1}));
    }
}

BOOST_AUTO_TEST_CASE(a_rank_that_fails_leaves_what_was_finished) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.state";
        const auto fail = [&] {
            run_ranks_as_threads(size, [&](Communicator& ranks) {
                StateFile state(ranks, path, identity, stages());
                write_shared(ranks, state, {0, 1, 2});
                ranks.barrier();
                if (ranks.rank() == size - 1) throw std::domain_error("the last rank's own");
                state.sync();
            });
        };
        BOOST_CHECK_THROW(fail(), std::domain_error);
        BOOST_TEST((marks_found(path, size) == Marks{1, 1, 1, 0}));
    }
}

BOOST_AUTO_TEST_CASE(other_settings_and_other_units_are_refused_with_every_key_that_differs) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.state";
        leave_state(path, size, {0});
        const auto refused = [&](const std::string& settings, const std::vector<plan::Stage>& layout) {
            return error_of([&] {
                run_ranks_as_threads(
                    size, [&](Communicator& ranks) { const StateFile state(ranks, path, settings, layout); });
            });
        };
        const auto other =
            refused(R"({"seed": 44, "model": {"dtype": "bf16", "path": "m"}, "pool": ["a", "b"]})", stages());
        BOOST_TEST_REQUIRE(other.has_value());
        BOOST_TEST(static_cast<int>(other->code()) == static_cast<int>(ExitCode::state_mismatch));
        BOOST_TEST(other->failure().where == path);
        BOOST_TEST(other->failure().field == "model/dtype, seed");
        BOOST_TEST(other->failure().expected == R"(model/dtype="fp32", seed=43 as begun)");
        BOOST_TEST(other->failure().found == R"(model/dtype="bf16", seed=44)");

        auto cut = stages();
        cut[0].units = {{{0, 5}, 1.0}, {{5, 3}, 1.0}, {{8, 2}, 1.0}};
        const auto units = refused(identity, cut);
        BOOST_TEST_REQUIRE(units.has_value());
        BOOST_TEST(units->failure().field == "stage/pool/unit borders, stage/pool/units");
        BOOST_TEST((marks_found(path, size) == Marks{1, 0, 0, 0}));  // and nothing happened to it
    }
}

BOOST_AUTO_TEST_CASE(the_same_units_make_the_same_bytes_for_any_number_of_ranks) {
    const TemporaryFolder folder;
    leave_state(folder / "1.state", 1, {0, 2, 3});
    const std::string expected = bytes_of(folder / "1.state");
    BOOST_TEST(!expected.empty());
    for (const int size : {2, 3, 5}) {
        const std::string path = folder / (std::to_string(size) + ".state");
        leave_state(path, size, {0, 2, 3});
        BOOST_TEST((bytes_of(path) == expected), size << " ranks");
    }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(run_lock_of_threads)

BOOST_AUTO_TEST_CASE(a_second_job_is_refused_and_the_lock_goes_with_its_owner) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string out = folder / "out", path = out + ".lock";
        const auto lock_again = [&] {
            run_ranks_as_threads(size, [&](Communicator& ranks) { const RunLock lock(ranks, out); });
        };
        Findings wrong;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            const RunLock lock(ranks, out);
            wrong.expect(std::filesystem::exists(path), "the lock's file");
            if (ranks.is_root()) {
                const auto error = error_of(lock_again);
                wrong.expect(error && error->code() == ExitCode::locked, "a second job");
            }
            ranks.barrier();
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
        BOOST_TEST(!std::filesystem::exists(path));
        BOOST_TEST(!error_of(lock_again).has_value());
    }
}

BOOST_AUTO_TEST_SUITE_END()
