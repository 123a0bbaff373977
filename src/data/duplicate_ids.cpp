#include "duplicate_ids.hpp"

#include "idistill/base/hash.hpp"
#include "key_parts.hpp"

namespace idistill::data {

RowKey key_of_id(std::string_view id, std::int64_t row) noexcept {
    std::uint64_t high = 0xcbf29ce484222325ULL;
    std::uint64_t low = 0x9e3779b97f4a7c15ULL;
    for (const char c : id) {
        const auto byte = static_cast<unsigned char>(c);
        high = (high ^ byte) * 0x100000001b3ULL;
        low = mixed(low + byte + 1);
    }
    return {.high = mixed(high), .low = low, .row = row};
}

std::optional<std::pair<std::int64_t, std::int64_t>> find_duplicate_ids(
    comm::Communicator& communicator, std::span<const RowKey> mine, std::int64_t rows,
    const std::function<std::string(std::int64_t)>& id_of_row) {
    std::optional<std::pair<std::int64_t, std::int64_t>> found;
    for_each_part_of_keys(communicator, mine, rows, [&](std::span<const RowKey> keys) {
        if (found) return;
        // Of all pairs the one whose second row comes first, so that the answer is the same for any number of ranks.
        for (std::size_t i = 1; i < keys.size(); ++i) {
            const auto &a = keys[i - 1], &b = keys[i];
            if (a.high != b.high || a.low != b.low || (found && found->second <= b.row)) continue;
            if (id_of_row(a.row) == id_of_row(b.row)) found = {a.row, b.row};
        }
    });
    return found;
}

}  // namespace idistill::data
