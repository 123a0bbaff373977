#include "duplicate_ids.hpp"

#include <algorithm>
#include <tuple>
#include <vector>

#include "idistill/base/hash.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t keys_per_part = std::int64_t{1} << 22U;  // 96 MiB on the rank that compares them

}  // namespace

IdKey key_of_id(std::string_view id, std::int64_t row) noexcept {
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
    comm::Communicator& communicator, std::span<const IdKey> mine, std::int64_t rows,
    const std::function<std::string(std::int64_t)>& id_of_row) {
    const std::int64_t parts = 1 + rows / keys_per_part;
    std::optional<std::pair<std::int64_t, std::int64_t>> found;
    for (std::int64_t part = 0; part < parts; ++part) {
        std::vector<IdKey> send;
        for (const IdKey& key : mine) {
            if (static_cast<std::int64_t>(key.high % static_cast<std::uint64_t>(parts)) == part) send.push_back(key);
        }
        const int root = static_cast<int>(part % communicator.size());
        const auto received = communicator.gather<IdKey>(send, root);
        if (communicator.rank() != root || found) continue;

        std::vector<IdKey> keys;
        for (const auto& of_rank : received) keys.insert(keys.end(), of_rank.begin(), of_rank.end());
        std::sort(keys.begin(), keys.end(), [](const IdKey& a, const IdKey& b) {
            return std::tie(a.high, a.low, a.row) < std::tie(b.high, b.low, b.row);
        });
        // Of all pairs the one whose second row comes first, so that the answer is the same for any number of ranks.
        for (std::size_t i = 1; i < keys.size(); ++i) {
            const auto &a = keys[i - 1], &b = keys[i];
            if (a.high != b.high || a.low != b.low || (found && found->second <= b.row)) continue;
            if (id_of_row(a.row) == id_of_row(b.row)) found = {a.row, b.row};
        }
    }
    return found;
}

}  // namespace idistill::data
