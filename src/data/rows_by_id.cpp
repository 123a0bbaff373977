#include "rows_by_id.hpp"

#include <algorithm>
#include <string>

#include "duplicate_ids.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t ids_at_once = 65536;

/// Row of the file; -1 for none.
std::int64_t row_in(const std::vector<RowKey>& known, const std::string& name) {
    const auto key = key_of_id(name, 0);
    const auto found = std::lower_bound(known.begin(), known.end(), key, key_before);
    return found != known.end() && !key_before(key, *found) ? found->row : -1;
}

struct Ids {
    const h5::File& file;
    const h5::Dataset& id;

    [[nodiscard]] std::vector<std::string> read(RowRange rows) const {
        return h5::read_strings(file, id, rows.first, rows.count);
    }

    /// Whether every wanted row has its id in the same row of the file.
    [[nodiscard]] bool in_order(const ReadIds& read_ids, std::span<const std::uint8_t> wanted) const {
        const auto size = std::ssize(wanted);
        if (size != id.rows()) return false;
        for (std::int64_t first = 0; first < size; first += ids_at_once) {
            const RowRange rows{first, std::min(ids_at_once, size - first)};
            const auto mine = read(rows), theirs = read_ids(rows);
            for (std::size_t i = 0; i < mine.size(); ++i)
                if (wanted[static_cast<std::size_t>(first) + i] != 0 && mine[i] != theirs[i]) return false;
        }
        return true;
    }

    /// Sorted by key.
    [[nodiscard]] std::vector<RowKey> keys() const {
        std::vector<RowKey> all;
        all.reserve(static_cast<std::size_t>(id.rows()));
        for (std::int64_t first = 0; first < id.rows(); first += ids_at_once) {
            std::int64_t row = first;
            for (const auto& name : read({first, std::min(ids_at_once, id.rows() - first)}))
                all.push_back(key_of_id(name, row++));
        }
        std::sort(all.begin(), all.end(), key_before);
        const auto twice = std::adjacent_find(all.begin(), all.end(),
                                              [](const RowKey& a, const RowKey& b) { return !key_before(a, b); });
        if (twice != all.end())
            h5::mismatch(file, "/id", "every id once",
                         "'" + read({twice->row, 1}).front() + "' in rows " + std::to_string(twice->row) + " and " +
                             std::to_string((twice + 1)->row));
        return all;
    }

    /// Row of the file for every row, -1 where it is not wanted.
    [[nodiscard]] std::vector<std::int64_t> find(const ReadIds& read_ids, std::span<const std::uint8_t> wanted) const {
        const auto known = keys();
        const auto size = std::ssize(wanted);
        std::vector<std::int64_t> row_of(wanted.size(), -1);
        std::int64_t missing = 0;
        std::string examples;
        for (std::int64_t first = 0; first < size; first += ids_at_once) {
            auto row = static_cast<std::size_t>(first);
            for (const auto& name : read_ids({first, std::min(ids_at_once, size - first)})) {
                const auto here = row++;
                if (wanted[here] == 0) continue;
                row_of[here] = row_in(known, name);
                if (row_of[here] < 0 && ++missing <= 3) {
                    examples += (examples.empty() ? "'" : ", '") + name + "'";
                }
            }
        }
        if (missing > 0)
            h5::mismatch(file, "/id", "the id of every usable sample",
                         std::to_string(missing) + " missing: " + examples + (missing > 3 ? ", ..." : ""));
        return row_of;
    }
};

}  // namespace

void RowsById::match(comm::Communicator& communicator, const ReadIds& read_ids, std::span<const std::uint8_t> wanted,
                     const h5::File& file, const h5::Dataset& id) {
    const Ids ids{file, id};
    row_of_.clear();
    std::uint8_t ordered = 0;
    if (communicator.is_root()) {
        ordered = ids.in_order(read_ids, wanted) ? 1 : 0;
        if (ordered == 0) row_of_ = ids.find(read_ids, wanted);
    }
    communicator.broadcast(std::span(&ordered, 1));
    if (ordered != 0) return;
    row_of_.resize(wanted.size());
    communicator.broadcast(std::span(row_of_));
}

std::vector<std::int64_t> RowsById::find(const h5::File& file, const h5::Dataset& id,
                                         std::span<const std::string> ids) {
    const auto known = Ids{file, id}.keys();
    std::vector<std::int64_t> rows;
    rows.reserve(ids.size());
    for (const auto& own : ids) rows.push_back(row_in(known, own));
    return rows;
}

}  // namespace idistill::data
