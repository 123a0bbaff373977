#include "key_parts.hpp"

#include <algorithm>
#include <vector>

namespace idistill::data {
namespace {

constexpr std::int64_t keys_per_part = std::int64_t{1} << 22U;  // 96 MiB on the rank that compares them

}  // namespace

void for_each_part_of_keys(comm::Communicator& communicator, std::span<const RowKey> mine, std::int64_t rows,
                           const std::function<void(std::span<const RowKey>)>& compare) {
    const std::int64_t parts = 1 + rows / keys_per_part;
    for (std::int64_t part = 0; part < parts; ++part) {
        std::vector<RowKey> send;
        for (const RowKey& key : mine) {
            if (static_cast<std::int64_t>(key.high % static_cast<std::uint64_t>(parts)) == part) send.push_back(key);
        }
        const int root = static_cast<int>(part % communicator.size());
        const auto received = communicator.gather<RowKey>(send, root);
        if (communicator.rank() != root) continue;

        std::vector<RowKey> keys;
        for (const auto& of_rank : received) keys.insert(keys.end(), of_rank.begin(), of_rank.end());
        std::sort(keys.begin(), keys.end());
        compare(keys);
    }
}

}  // namespace idistill::data
