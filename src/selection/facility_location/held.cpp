#include "held.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <unordered_map>

#include "idistill/base/error.hpp"
#include "idistill/io/result_file.hpp"

namespace idistill::selection {
namespace {

constexpr std::array<char, 8> hdf5_signature{'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};

[[noreturn]] void refuse(const std::string& path, const std::string& field, const std::string& expected,
                         const std::string& found, const std::string& remedy) {
    throw Error(ExitCode::bad_input, {path, field, expected, found, remedy});
}

std::vector<std::string> lines_of(std::ifstream& file) {
    std::vector<std::string> ids;
    for (std::string line; std::getline(file, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (!line.empty()) ids.push_back(line);
    }
    return ids;
}

std::vector<std::string> ids_in(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) refuse(path, {}, "a result, or a text file with an id on every line", "no file that can be read", {});
    std::array<char, 8> start{};
    file.read(start.data(), start.size());
    if (file && start == hdf5_signature) return io::ResultReader(path).read_strings("/selected/id");
    file.clear();
    file.seekg(0);
    return lines_of(file);
}

/// Places of the ids in their list.
std::unordered_map<std::string, std::size_t> places_of(const std::string& path, const std::vector<std::string>& ids) {
    if (ids.empty()) refuse(path, "ids", "at least one", "none", "Leave --held out where nothing is held yet.");
    std::unordered_map<std::string, std::size_t> places;
    for (std::size_t i = 0; i < ids.size(); ++i)
        if (const auto [first, is_new] = places.emplace(ids[i], i); !is_new)
            refuse(path, "ids", "every id once", fmt::format("'{}' at places {} and {}", ids[i], first->second, i),
                   "Keep one of the two.");
    return places;
}

std::vector<std::int64_t> rows_in_pool(const std::unordered_map<std::string, std::size_t>& places,
                                       std::int64_t pool_rows, const data::ReadIds& read_ids) {
    constexpr std::int64_t at_once = 65536;
    std::vector<std::int64_t> rows(places.size(), -1);
    for (std::int64_t first = 0; first < pool_rows; first += at_once) {
        auto row = first;
        for (const auto& id : read_ids({first, std::min(at_once, pool_rows - first)})) {
            if (const auto found = places.find(id); found != places.end()) rows[found->second] = row;
            ++row;
        }
    }
    return rows;
}

void check_all_found(const std::string& path, const std::vector<std::string>& ids,
                     const std::vector<std::int64_t>& rows, const std::string& where, const std::string& remedy) {
    std::string examples;
    std::int64_t missing = 0;
    for (std::size_t i = 0; i < ids.size(); ++i)
        if (rows[i] < 0 && ++missing <= 3) examples += (examples.empty() ? "'" : ", '") + ids[i] + "'";
    if (missing > 0)
        refuse(path, "ids", "ids of " + where,
               fmt::format("{} that it has not: {}{}", missing, examples, missing > 3 ? ", ..." : ""), remedy);
}

void share(comm::Communicator& comm, std::vector<std::int64_t>& rows) {
    auto size = std::ssize(rows);
    comm.broadcast(std::span(&size, 1));
    rows.resize(static_cast<std::size_t>(size));
    comm.broadcast(std::span(rows));
}

}  // namespace

Held find_held(comm::Communicator& comm, const std::string& path, std::int64_t pool_rows, const data::ReadIds& read_ids,
               const data::EmbeddingFile* file) {
    Held held;
    if (comm.is_root()) {
        const auto ids = ids_in(path);
        held.pool_rows = rows_in_pool(places_of(path, ids), pool_rows, read_ids);
        if (file != nullptr) {
            held.file_rows = file->find(ids);
            check_all_found(path, ids, held.file_rows, "the file of --similarity",
                            "Embed pool and held samples into one file, or leave these ids out.");
        } else {
            check_all_found(path, ids, held.pool_rows, "the pool",
                            "Compare samples by an embedding file that has them, --similarity FILE.h5, or leave these "
                            "ids out.");
        }
        std::erase(held.pool_rows, -1);
    }
    share(comm, held.pool_rows);
    share(comm, held.file_rows);
    return held;
}

}  // namespace idistill::selection
