// State and result files as all ranks write them together.

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>

#include "idistill/io/result_file.hpp"
#include "idistill/io/state_file.hpp"
#include "idistill/report/error.hpp"
#include "ranks.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::io;
using idistill::data::RowRange;
using idistill::test::world;

namespace {

/// A folder that rank 0 makes and removes, and all know.
class SharedFolder {
public:
    SharedFolder() {
        std::vector<std::uint8_t> name;
        if (world().is_root()) {
            mine_.emplace();
            const std::string path = *mine_ / "";
            name.assign(path.begin(), path.end());
        }
        const auto all = world().all_gather<std::uint8_t>(name);
        path_.assign(all[0].begin(), all[0].end());
    }
    ~SharedFolder() { world().barrier(); }
    SharedFolder(const SharedFolder&) = delete;
    SharedFolder& operator=(const SharedFolder&) = delete;

    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + name; }

private:
    std::optional<test::TemporaryFolder> mine_;
    std::string path_;
};

const std::string identity = R"({"seed": 43, "model": {"dtype": "fp32", "path": "m"}, "pool": ["a", "b"]})";

/// Two stages: 10 rows in 4 units with two columns, and one without rows. A row is as wide as its column says.
std::vector<StateStage> stages() {
    return {{.name = "pool",
             .rows = 10,
             .columns = {{"influence", 3}, {"norm", 1}},
             .units = {{{0, 4}, 1.0}, {{4, 1}, 1.0}, {{5, 3}, 1.0}, {{8, 2}, 1.0}}},
            {.name = "targets", .rows = 0, .columns = {{"sketch", 5}}, .units = {}}};
}

/// Values that no other place has; NaN and -0.0 among them.
std::vector<float> values(RowRange rows, std::int64_t width, float column) {
    std::vector<float> all;
    for (std::int64_t row = rows.first; row < rows.end(); ++row) {
        for (std::int64_t i = 0; i < width; ++i) {
            all.push_back(static_cast<float>(row * 16 + i) + column);
        }
    }
    if (rows.first == 5) all[0] = std::numeric_limits<float>::quiet_NaN();
    if (rows.first == 8) all[0] = -0.0F;
    return all;
}

void write(StateFile& state, std::int64_t unit) {
    const RowRange rows = stages()[0].units[static_cast<std::size_t>(unit)].rows;
    const auto influence = values(rows, 3, 0.25F);
    const auto norm = values(rows, 1, 0.5F);
    const std::vector<std::span<const float>> columns{influence, norm};
    state.write_unit(0, unit, columns);
}

bool holds(const StateFile& state, std::int64_t unit) {
    const RowRange rows = stages()[0].units[static_cast<std::size_t>(unit)].rows;
    const auto same = [&](std::size_t column, std::int64_t width, float shift) {
        std::vector<float> found(static_cast<std::size_t>(rows.count * width));
        state.read(0, column, rows, found);
        const auto wanted = values(rows, width, shift);
        return std::memcmp(found.data(), wanted.data(), found.size() * sizeof(float)) == 0;
    };
    return same(0, 3, 0.25F) && same(1, 1, 0.5F);
}

bool is_mine(std::int64_t unit) { return unit % world().size() == world().rank(); }

std::vector<std::uint8_t> marks(const StateFile& state) {
    const auto found = state.recovered(0);
    return {found.begin(), found.end()};
}

/// Changes one byte of a dataset where it lies in the file.
void flip_byte(const std::string& path, const char* dataset, std::int64_t byte) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t opened = H5Dopen2(file, dataset, H5P_DEFAULT);
    const auto at = static_cast<off_t>(H5Dget_offset(opened)) + byte;
    H5Dclose(opened);
    H5Fclose(file);
    const int descriptor = ::open(path.c_str(), O_RDWR);
    char value = 0;
    BOOST_TEST_REQUIRE(::pread(descriptor, &value, 1, at) == 1);
    value = static_cast<char>(value ^ 0x10);
    BOOST_TEST_REQUIRE(::pwrite(descriptor, &value, 1, at) == 1);
    ::close(descriptor);
}

std::optional<Error> error_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& error) {
        return error;
    }
    return std::nullopt;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(state_file)

BOOST_AUTO_TEST_CASE(units_of_several_ranks_are_read_by_all_and_recovered) {
    const SharedFolder folder;
    const std::string path = folder / "out.state";
    {
        StateFile state(world(), path, identity, stages());
        BOOST_TEST(state.units_recovered() == 0);
        BOOST_TEST((marks(state) == std::vector<std::uint8_t>{0, 0, 0, 0}));
        BOOST_TEST(state.recovered(1).empty());
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
    const std::vector<StateStage> equal_units{
        {.name = "pool", .rows = 2, .columns = {{"x", 1}}, .units = {{{0, 1}, 1.0}, {{1, 1}, 1.0}}}};
    {
        StateFile state(world(), path, identity, equal_units);
        const float value = 0.0F;
        const std::vector<std::span<const float>> columns{std::span(&value, 1)};
        if (world().is_root()) state.write_unit(0, 0, columns);
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
    const std::string path = folder / "out.lock";
    {
        const RunLock lock(world(), path);
        BOOST_TEST(std::filesystem::exists(path));
        if (world().is_root()) {
            const auto error = error_of([&] { const RunLock second(world(), path); });
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
    // What a killed job leaves is a file without a lock.
    if (world().is_root()) std::ofstream(path) << "process 1 on host gone";
    world().barrier();
    const RunLock again(world(), path);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(result_file)

namespace {

constexpr std::int64_t row_count = 11;
const std::vector<std::string> names{"zwölf", "", "a longer name"};

/// Rank 0 has no row, the last one has the most.
RowRange uneven_share() {
    const int rank = world().rank();
    const int size = world().size();
    const std::int64_t first = row_count * rank * rank / (size * size);
    if (size == 1) return {0, row_count};
    const std::int64_t begin = rank == 0 ? 0 : rank == 1 ? 0 : first;
    const std::int64_t end = rank == 0          ? 0
                             : rank + 1 == size ? row_count
                                                : row_count * (rank + 1) * (rank + 1) / (size * size);
    return {begin, end - begin};
}

float influence_at(std::int64_t row, std::int64_t column) { return static_cast<float>(row * 10 + column) / 8.0F; }

void write_rows_of(ResultWriter& writer, const std::string& name, float weight) {
    writer.rows<float>(name, row_count, 0, uneven_share(), [&](RowRange rows, std::span<float> out) {
        for (std::int64_t i = 0; i < rows.count; ++i) {
            out[static_cast<std::size_t>(i)] = weight * static_cast<float>(rows.first + i);
        }
    });
}

void write_result(const std::string& path) {
    ResultWriter writer(world(), path);
    writer.attribute("settings", std::string(R"({"seed": 43, "name": "ü"})"));
    writer.attribute("units_recovered", std::int64_t{7});
    writer.attribute("seconds", 1.5);
    write_rows_of(writer, "/weight", 1.0F);
    writer.rows<float>("/influence", row_count, 3, uneven_share(), [](RowRange rows, std::span<float> out) {
        for (std::int64_t i = 0; i < rows.count * 3; ++i) {
            out[static_cast<std::size_t>(i)] = influence_at(rows.first + i / 3, i % 3);
        }
    });
    writer.rows<std::uint8_t>("/exact", row_count, 0, uneven_share(), [](RowRange rows, std::span<std::uint8_t> out) {
        for (std::int64_t i = 0; i < rows.count; ++i) out[static_cast<std::size_t>(i)] = (rows.first + i) % 2 == 1;
    });
    writer.row_strings("/id", row_count, uneven_share(), [](RowRange rows) {
        std::vector<std::string> ids;
        for (auto row = rows.first; row < rows.end(); ++row) {
            ids.emplace_back(static_cast<std::size_t>(row), 'x');
            if (row == 3) ids.back() = "größer";
        }
        return ids;
    });
    writer.strings("/column/name", names);
    const std::vector<std::int64_t> selected{5, 1, 1'000'000'000'000};
    writer.small<std::int64_t>("/selected/index", selected);
    const std::vector<double> table{1, 2, 3, 4, 5, 6};
    writer.small<double>("/landmark/loo", table, 2);
    writer.small<std::int32_t>("/quarantine/index", {});
    writer.strings("/quarantine/reason", {});
    BOOST_TEST(!std::filesystem::exists(path));
    writer.commit();
}

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_all_ranks_wrote_is_read_by_each) {
    const SharedFolder folder;
    const std::string path = folder / "out.h5";
    write_result(path);
    BOOST_TEST(!std::filesystem::exists(path + ".partial"));
    const ResultReader reader(path);
    BOOST_TEST(reader.attribute("format") == "idistill-weights");
    BOOST_TEST(reader.attribute("settings") == R"({"seed": 43, "name": "ü"})");
    BOOST_TEST(reader.attribute("units_recovered") == "7");
    BOOST_TEST(reader.row_count("/influence") == row_count);
    BOOST_TEST(reader.width("/influence") == 3);
    BOOST_TEST(reader.width("/weight") == 0);
    const auto weight = reader.read<float>("/weight");
    const auto influence = reader.read<float>("/influence");
    const auto exact = reader.read<std::uint8_t>("/exact");
    const auto ids = reader.read_strings("/id");
    for (std::int64_t row = 0; row < row_count; ++row) {
        const auto at = static_cast<std::size_t>(row);
        BOOST_TEST(weight[at] == static_cast<float>(row));
        for (std::int64_t column = 0; column < 3; ++column) {
            BOOST_TEST(influence[at * 3 + static_cast<std::size_t>(column)] == influence_at(row, column));
        }
        BOOST_TEST(exact[at] == row % 2);
        BOOST_TEST(ids[at] == (row == 3 ? "größer" : std::string(at, 'x')));
    }
    std::vector<float> some(6);
    reader.read_rows<float>("/influence", {4, 2}, some);
    BOOST_TEST(some[5] == influence_at(5, 2));
    BOOST_TEST(reader.read_strings("/column/name") == names, boost::test_tools::per_element());
    BOOST_TEST((reader.read<std::int64_t>("/selected/index") == std::vector<std::int64_t>{5, 1, 1'000'000'000'000}));
    BOOST_TEST(reader.width("/landmark/loo") == 2);
    BOOST_TEST((reader.read<double>("/landmark/loo") == std::vector<double>{1, 2, 3, 4, 5, 6}));
    BOOST_TEST(reader.row_count("/quarantine/index") == 0);
    BOOST_TEST(reader.read_strings("/quarantine/reason").empty());
    BOOST_CHECK_THROW((void)reader.read<float>("/exact"), Error);
    BOOST_CHECK_THROW((void)reader.read<float>("/missing"), Error);
    world().barrier();
}

BOOST_AUTO_TEST_CASE(the_same_values_make_the_same_bytes) {
    const SharedFolder folder;
    write_result(folder / "a.h5");
    write_result(folder / "b.h5");
    BOOST_TEST((bytes_of(folder / "a.h5") == bytes_of(folder / "b.h5")));
    world().barrier();
}

BOOST_AUTO_TEST_CASE(a_copy_replaces_what_is_written_again_and_keeps_the_rest) {
    const SharedFolder folder;
    const std::string path = folder / "out.h5";
    write_result(path);
    const std::string before = bytes_of(path);
    for (const std::string& target : {folder / "again.h5", path}) {  // the source itself at last
        ResultWriter writer(world(), target, path);
        writer.attribute("settings", std::string("{}"));
        writer.attribute("units_recovered", std::string("another type"));
        write_rows_of(writer, "/weight", -2.0F);
        const std::vector<std::int64_t> selected{9};
        writer.small<std::int64_t>("/selected/index", selected);
        writer.strings("/column/name", {"one"});
        BOOST_TEST((bytes_of(path) == before));
        world().barrier();
        writer.commit();

        const ResultReader reader(target);
        BOOST_TEST(reader.attribute("settings") == "{}");
        BOOST_TEST(reader.attribute("units_recovered") == "another type");
        BOOST_TEST(reader.read<float>("/weight")[4] == -8.0F);
        BOOST_TEST(reader.read<float>("/influence")[4 * 3 + 1] == influence_at(4, 1));
        BOOST_TEST((reader.read<std::int64_t>("/selected/index") == std::vector<std::int64_t>{9}));
        BOOST_TEST((reader.read_strings("/column/name") == std::vector<std::string>{"one"}));
        BOOST_TEST(reader.read_strings("/id")[3] == "größer");
        BOOST_TEST(!std::filesystem::exists(target + ".partial"));
        world().barrier();
    }
}

BOOST_AUTO_TEST_CASE(without_commit_the_old_result_stays_and_a_partial_is_replaced) {
    const SharedFolder folder;
    const std::string path = folder / "out.h5";
    {
        ResultWriter writer(world(), path);
        write_rows_of(writer, "/weight", 3.0F);
    }
    BOOST_TEST(!std::filesystem::exists(path));
    write_result(path);
    {
        ResultWriter writer(world(), path);
        write_rows_of(writer, "/weight", 4.0F);
    }
    BOOST_TEST(ResultReader(path).read<float>("/weight")[1] == 1.0F);
    world().barrier();
}

BOOST_AUTO_TEST_CASE(rows_that_are_not_covered_once_are_a_defect) {
    const SharedFolder folder;
    ResultWriter writer(world(), folder / "out.h5");
    const RowRange mine{0, world().is_root() ? row_count - 1 : 0};
    BOOST_CHECK_THROW(writer.rows<float>("/weight", row_count, 0, mine, [](RowRange, std::span<float>) {}), Error);
    world().barrier();
}

BOOST_AUTO_TEST_CASE(a_folder_that_is_not_there_is_named_by_rank_0) {
    const SharedFolder folder;
    if (world().is_root()) {
        const auto error = error_of([&] { const ResultWriter writer(world(), folder / "none/out.h5"); });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(error->failure().where == folder / "none/out.h5.partial");
        BOOST_TEST(error->failure().found == "No such file or directory");
    }
    world().barrier();
}

BOOST_AUTO_TEST_SUITE_END()
