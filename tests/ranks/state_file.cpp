// State files and the lock of a run, as all ranks use them together.

#include "idistill/work/state_file.hpp"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "error_of.hpp"
#include "idistill/work/run_lock.hpp"
#include "shared_folder.hpp"
#include "state_files.hpp"

using namespace idistill;
using namespace idistill::work;
using namespace idistill::test;
using idistill::data::RowRange;

namespace {

bool is_mine(std::int64_t unit) { return unit % world().size() == world().rank(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(state_file)

BOOST_AUTO_TEST_CASE(units_of_several_ranks_are_read_by_all_and_recovered) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    {
        StateFile state(world(), path, identity, stages());
        BOOST_TEST(state.units_recovered() == 0);
        BOOST_TEST((marks(state) == std::vector<std::uint8_t>{0, 0, 0, 0}));
        BOOST_TEST(state.recovered("targets").empty());
        for (const std::int64_t unit : {3, 2, 0}) {
            if (is_mine(unit)) write(state, unit);
        }
        state.sync();
        for (const std::int64_t unit : {0, 2, 3}) BOOST_TEST(holds(state, unit));
    }
    StateFile state(world(), path, identity, stages());
    BOOST_TEST((marks(state) == std::vector<std::uint8_t>{1, 0, 1, 1}));
    BOOST_TEST(state.units_recovered() == 3);
    for (const std::int64_t unit : {0, 2, 3}) BOOST_TEST(holds(state, unit));
    if (is_mine(1)) write(state, 1);
    state.sync();
    BOOST_TEST(holds(state, 1));
    state.remove();
    BOOST_TEST(!std::filesystem::exists(path));
    BOOST_TEST(!std::filesystem::exists(path + ".new"));
}

BOOST_AUTO_TEST_CASE(a_unit_whose_rows_changed_is_not_recovered) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    {
        StateFile state(world(), path, identity, stages());
        for (std::int64_t unit = 0; unit < 4; ++unit) {
            if (is_mine(unit)) write(state, unit);
        }
    }
    world().barrier();
    if (world().is_root()) {
        flip_byte(path, "/pool/influence", (4 * 3 + 1) * 4 + 2);  // row 4: unit 1
        flip_byte(path, "/pool/norm", 9 * 4);                     // row 9: unit 3
        flip_byte(path, "/pool/checksum", 2 * 8);                 // unit 2
    }
    world().barrier();
    StateFile state(world(), path, identity, stages());
    BOOST_TEST((marks(state) == std::vector<std::uint8_t>{1, 0, 0, 0}));
    BOOST_TEST(state.units_recovered() == 1);
}

BOOST_AUTO_TEST_CASE(rows_at_another_place_do_not_fit_their_checksum) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    const std::vector<plan::Stage> equal_units{
        {.name = "pool", .title = {}, .columns = {{"x", 1}}, .units = {{{0, 1}, 1.0}, {{1, 1}, 1.0}}}};
    {
        StateFile state(world(), path, identity, equal_units);
        const float value = 0.0F;
        const std::vector<std::span<const float>> columns{std::span(&value, 1)};
        if (world().is_root()) state.write_unit("pool", 0, columns);
    }
    world().barrier();
    if (world().is_root()) {  // copy mark and checksum of unit 0 to unit 1, whose row is the same zero
        const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
        const hid_t checksum = H5Dopen2(file, "/pool/checksum", H5P_DEFAULT);
        std::uint64_t sums[2];
        H5Dread(checksum, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums);
        sums[1] = sums[0];
        H5Dwrite(checksum, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, sums);
        const hid_t done = H5Dopen2(file, "/pool/done", H5P_DEFAULT);
        const std::uint8_t both[2] = {1, 1};
        H5Dwrite(done, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, both);
        H5Dclose(done);
        H5Dclose(checksum);
        H5Fclose(file);
    }
    world().barrier();
    const StateFile state(world(), path, identity, equal_units);
    BOOST_TEST((marks(state) == std::vector<std::uint8_t>{1, 0}));
}

// Rank 0 alone finds it and throws before anything collective, so it can be asked alone.
BOOST_AUTO_TEST_CASE(other_settings_are_refused_with_every_key_that_differs) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    { const StateFile state(world(), path, identity, stages()); }
    const std::string other = R"({"seed": 44, "model": {"dtype": "bf16", "path": "m"}, "pool": ["a", "b", "c"]})";
    if (world().is_root()) {
        const auto error = error_of([&] { const StateFile state(world(), path, other, stages()); });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::state_mismatch));
        BOOST_TEST(error->failure().where == path);
        BOOST_TEST(error->failure().field == "model/dtype, pool/2, seed");
        BOOST_TEST(error->failure().expected == "model/dtype=\"fp32\", pool/2=(absent), seed=43 as begun");
        BOOST_TEST(error->failure().found == "model/dtype=\"bf16\", pool/2=\"c\", seed=44");
        BOOST_TEST(error->failure().remedy.find("Remove " + path) == 0U);

        auto cut_differently = stages();
        cut_differently[0].units[0].rows.count = 3;
        cut_differently[0].units[1].rows = {3, 2};
        const auto cut = error_of([&] { const StateFile state(world(), path, identity, cut_differently); });
        BOOST_TEST_REQUIRE(cut.has_value());
        BOOST_TEST(cut->failure().field == "stage/pool/unit borders");
    }
    world().barrier();
    const StateFile state(world(), path, R"({"pool": ["a", "b"], "model": {"path": "m", "dtype": "fp32"}, "seed": 43})",
                          stages());  // the order of the keys does not matter
    BOOST_TEST(state.units_recovered() == 0);
}

BOOST_AUTO_TEST_CASE(a_state_cut_off_during_its_creation_is_made_anew_and_a_broken_one_is_refused) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    if (world().is_root()) std::ofstream(path + ".new") << "half a file";
    world().barrier();
    { const StateFile state(world(), path, identity, stages()); }
    world().barrier();
    BOOST_TEST(!std::filesystem::exists(path + ".new"));
    if (world().is_root()) {
        std::filesystem::resize_file(path, 100);
        const auto error = error_of([&] { const StateFile state(world(), path, identity, stages()); });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::state_mismatch));
        BOOST_TEST(error->failure().expected == "a whole HDF5 file");
    }
    world().barrier();
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(run_lock)

BOOST_AUTO_TEST_CASE(a_second_job_is_refused_with_the_holder_and_the_lock_goes_with_its_owner) {
    const SharedFolder folder;
    const std::string out = folder / "out", path = out + ".lock";
    {
        const RunLock lock(world(), out);
        BOOST_TEST(std::filesystem::exists(path));
        if (world().is_root()) {
            const auto error = error_of([&] { const RunLock second(world(), out); });
            BOOST_TEST_REQUIRE(error.has_value());
            BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::locked));
            BOOST_TEST(error->failure().found.find("process " + std::to_string(::getpid()) + " on host ") == 0U);
            BOOST_TEST(std::filesystem::exists(path));
        }
        world().barrier();
    }
    world().barrier();
    BOOST_TEST(!std::filesystem::exists(path));
    world().barrier();
    // What a killed job leaves is a file without a lock, and Open MPI's where it was just opening one.
    const std::vector<std::string> left{".state-71-9.lock", ".state.new-71-9.lock", ".partial-1795620865-2045.lock"};
    const std::vector<std::string> others{".partial-71-9.lock.h5", ".partial-a-9.lock", ".partial.old-71-9.lock"};
    if (world().is_root()) {
        std::ofstream(path) << "process 1 on host gone";
        for (const auto& suffix : left) std::ofstream(out + suffix) << 0;
        for (const auto& suffix : others) std::ofstream(out + suffix) << 0;
    }
    world().barrier();
    const RunLock again(world(), out);
    for (const auto& suffix : left) BOOST_TEST(!std::filesystem::exists(out + suffix), suffix);
    for (const auto& suffix : others) BOOST_TEST(std::filesystem::exists(out + suffix), suffix);
}

BOOST_AUTO_TEST_SUITE_END()
