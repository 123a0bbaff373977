// Result files as all ranks write them together and each reads them.

#include "idistill/io/result_file.hpp"

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "error_of.hpp"
#include "shared_folder.hpp"

using namespace idistill;
using namespace idistill::io;
using namespace idistill::test;
using idistill::data::RowRange;

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

void write_weights(ResultWriter& writer, float weight) {
    writer.create<float>("/weight", row_count);
    const RowRange mine = uneven_share();
    for (std::int64_t row = mine.first; row < mine.end(); ++row) {
        const float value = weight * static_cast<float>(row);
        writer.write<float>("/weight", {row, 1}, std::span(&value, 1));
    }
}

/// This rank's rows of several datasets, one after the other.
void write_rows(ResultWriter& writer) {
    writer.create<float>("/influence", row_count, 3);
    writer.create<std::uint8_t>("/exact", row_count);
    writer.create_strings("/id", row_count, row_count);
    const RowRange mine = uneven_share();
    std::vector<float> influence;
    std::vector<std::uint8_t> exact;
    std::vector<std::string> ids;
    for (std::int64_t row = mine.first; row < mine.end(); ++row) {
        for (std::int64_t column = 0; column < 3; ++column) influence.push_back(influence_at(row, column));
        exact.push_back(row % 2 == 1);
        ids.push_back(row == 3 ? "größer" : std::string(static_cast<std::size_t>(row), 'x'));
    }
    writer.write<float>("/influence", mine, influence);
    writer.write<std::uint8_t>("/exact", mine, exact);
    writer.write_strings("/id", mine.first, ids);
}

void write_result(const std::string& path) {
    ResultWriter writer(world(), path);
    writer.attribute("settings", std::string(R"({"seed": 43, "name": "ü"})"));
    writer.attribute("units_recovered", std::int64_t{7});
    writer.attribute("seconds", 1.5);
    write_weights(writer, 1.0F);
    write_rows(writer);
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
    reader.require<float>("/influence", {row_count, 3});
    reader.require<std::string>("/id", {row_count});
    const auto error = error_of([&] { reader.require<float>("/influence", {row_count, 4}); });
    BOOST_TEST_REQUIRE(error.has_value());
    BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::bad_input));
    BOOST_TEST(error->failure().where == path);
    BOOST_TEST(error->failure().field == "/influence");
    BOOST_TEST(error->failure().expected == "11 x 4 values");
    BOOST_TEST(error->failure().found == "11 x 3 values");
    BOOST_CHECK_THROW(reader.require<float>("/influence", {row_count}), Error);
    BOOST_CHECK_THROW(reader.require<double>("/influence", {row_count, 3}), Error);
    BOOST_CHECK_THROW(reader.require<std::string>("/weight", {row_count}), Error);
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
        write_weights(writer, -2.0F);
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
        write_weights(writer, 3.0F);
    }
    BOOST_TEST(!std::filesystem::exists(path));
    write_result(path);
    {
        ResultWriter writer(world(), path);
        write_weights(writer, 4.0F);
    }
    BOOST_TEST(ResultReader(path).read<float>("/weight")[1] == 1.0F);
    world().barrier();
}

BOOST_AUTO_TEST_CASE(rows_that_nobody_wrote_are_a_defect) {
    const SharedFolder folder;
    const std::string path = folder / "out.h5";
    {
        ResultWriter writer(world(), path);
        writer.create<float>("/weight", row_count);
        const std::vector<float> some(row_count - 1, 1.0F);
        if (world().is_root()) writer.write<float>("/weight", {0, row_count - 1}, some);
        const auto error = error_of([&] { writer.commit(); });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::internal_error));
        BOOST_TEST(error->failure().field == "/weight");
        BOOST_TEST(error->failure().found == "10");
    }
    BOOST_TEST(!std::filesystem::exists(path));
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
