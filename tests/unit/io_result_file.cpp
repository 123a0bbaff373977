// Result files written by ranks that are threads; tests/ranks/result_file.cpp is about MPI's.

#include <array>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "error_of.hpp"
#include "findings.hpp"
#include "idistill/comm/thread_group.hpp"
#include "idistill/io/result_file.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::io;
using namespace idistill::test;
using idistill::comm::Communicator;
using idistill::comm::run_ranks_as_threads;
using idistill::data::RowRange;

namespace {

constexpr std::array rank_counts{1, 2, 3, 5};
constexpr std::int64_t row_count = 11;
const std::vector<std::string> names{"zwölf", "", "a longer name"};

float influence_at(std::int64_t row, std::int64_t column) { return static_cast<float>(row * 10 + column) / 8.0F; }
std::string id_at(std::int64_t row) { return row == 3 ? "größer" : std::string(static_cast<std::size_t>(row), 'x'); }

/// Every rank writes every size-th row, one at a time, of all datasets.
void write_rows(const Communicator& ranks, ResultWriter& writer) {
    writer.create<float>("/influence", row_count, 3);
    writer.create<std::uint8_t>("/exact", row_count);
    writer.create_strings("/id", row_count, row_count);
    for (std::int64_t row = ranks.rank(); row < row_count; row += ranks.size()) {
        const std::array influence{influence_at(row, 0), influence_at(row, 1), influence_at(row, 2)};
        const std::uint8_t exact = row % 2 == 1;
        const std::string id = id_at(row);
        writer.write<float>("/influence", {row, 1}, influence);
        writer.write<std::uint8_t>("/exact", {row, 1}, std::span(&exact, 1));
        writer.write_strings("/id", row, std::span(&id, 1));
    }
}

void write_result(Communicator& ranks, const std::string& path) {
    ResultWriter writer(ranks, path);
    writer.attribute("settings", std::string(R"({"seed": 43, "name": "ü"})"));
    writer.attribute("units_recovered", std::int64_t{7});
    writer.attribute("seconds", 1.5);
    write_rows(ranks, writer);
    writer.strings("/column/name", names);
    const std::vector<double> table{1, 2, 3, 4, 5, 6};
    writer.small<double>("/landmark/loo", table, 2);
    writer.small<std::int32_t>("/quarantine/index", {});
    writer.commit();
}

/// What is wrong with the rows that write_rows() wrote; every rank reads them on its own.
void expect_rows(const ResultReader& reader, Findings& wrong) {
    const auto influence = reader.read<float>("/influence");
    const auto exact = reader.read<std::uint8_t>("/exact");
    const auto ids = reader.read_strings("/id");
    for (std::int64_t row = 0; row < row_count; ++row) {
        const auto at = static_cast<std::size_t>(row);
        for (std::int64_t column = 0; column < 3; ++column)
            wrong.expect(influence[at * 3 + static_cast<std::size_t>(column)] == influence_at(row, column),
                         "influence");
        wrong.expect(exact[at] == row % 2, "exact");
        wrong.expect(ids[at] == id_at(row), "id");
    }
}

std::string bytes_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(result_file_of_threads)

BOOST_AUTO_TEST_CASE(what_all_ranks_wrote_is_read_by_each) {
    const TemporaryFolder folder;
    for (const int size : rank_counts) {
        const std::string path = folder / ("out" + std::to_string(size) + ".h5");
        Findings wrong;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            write_result(ranks, path);
            wrong.expect(!std::filesystem::exists(path + ".partial"), "the partial file");
            const ResultReader reader(path);
            wrong.expect(reader.attribute("format") == "idistill-weights", "format");
            wrong.expect(reader.attribute("settings") == R"({"seed": 43, "name": "ü"})", "settings");
            wrong.expect(reader.attribute("units_recovered") == "7", "units_recovered");
            expect_rows(reader, wrong);
            wrong.expect(reader.read_strings("/column/name") == names, "/column/name");
            wrong.expect(reader.width("/landmark/loo") == 2, "width");
            wrong.expect(reader.read<double>("/landmark/loo") == std::vector<double>{1, 2, 3, 4, 5, 6}, "loo");
            wrong.expect(reader.row_count("/quarantine/index") == 0, "quarantine");
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
        BOOST_TEST((bytes_of(path) == bytes_of(folder / "out1.h5")), "bytes with " << size << " ranks");
    }
}

BOOST_AUTO_TEST_CASE(a_copy_replaces_what_is_written_again_and_keeps_the_rest) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.h5", again = folder / "again.h5";
        Findings wrong;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            write_result(ranks, path);
            ResultWriter writer(ranks, again, path);
            writer.attribute("settings", std::string("{}"));
            writer.remove_attribute("seconds");
            writer.create<float>("/weight", row_count);
            if (ranks.rank() == size - 1)
                writer.write<float>("/weight", {0, row_count}, std::vector<float>(row_count, 2.0F));
            writer.strings("/column/name", {"one"});
            writer.commit();
            const ResultReader reader(again);
            wrong.expect(reader.attribute("settings") == "{}", "settings");
            wrong.expect(reader.read<float>("/weight") == std::vector<float>(row_count, 2.0F), "weight");
            wrong.expect(reader.read_strings("/column/name") == std::vector<std::string>{"one"}, "/column/name");
            expect_rows(reader, wrong);
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
    }
}

BOOST_AUTO_TEST_CASE(without_commit_the_old_result_stays_and_a_partial_is_replaced) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.h5";
        Findings wrong;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            {
                ResultWriter writer(ranks, path);
                write_rows(ranks, writer);
            }
            wrong.expect(!std::filesystem::exists(path), "a result that was not committed");
            ranks.barrier();
            write_result(ranks, path);
            {
                ResultWriter writer(ranks, path);
                writer.create<float>("/influence", row_count, 3);
            }
            expect_rows(ResultReader(path), wrong);
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
    }
}

BOOST_AUTO_TEST_CASE(rows_that_nobody_wrote_are_a_defect) {
    for (const int size : rank_counts) {
        const TemporaryFolder folder;
        const std::string path = folder / "out.h5";
        const auto error = error_of([&] {
            run_ranks_as_threads(size, [&](Communicator& ranks) {
                ResultWriter writer(ranks, path);
                writer.create<float>("/weight", row_count);
                if (ranks.is_root())
                    writer.write<float>("/weight", {0, row_count - 1}, std::vector<float>(row_count - 1, 1.0F));
                writer.commit();
            });
        });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(static_cast<int>(error->code()) == static_cast<int>(ExitCode::internal_error));
        BOOST_TEST(error->failure().field == "/weight");
        BOOST_TEST(error->failure().found == "10");
        BOOST_TEST(!std::filesystem::exists(path));
    }
}

BOOST_AUTO_TEST_CASE(a_folder_that_is_not_there_is_named) {
    const TemporaryFolder folder;
    for (const int size : rank_counts) {
        const auto error = error_of([&] {
            run_ranks_as_threads(
                size, [&](Communicator& ranks) { const ResultWriter writer(ranks, folder / "none/out.h5"); });
        });
        BOOST_TEST_REQUIRE(error.has_value());
        BOOST_TEST(error->failure().where == folder / "none/out.h5.partial");
        BOOST_TEST(error->failure().found == "No such file or directory");
    }
}

BOOST_AUTO_TEST_SUITE_END()
