#include "idistill/data/overlap.hpp"

#include <algorithm>

#include "idistill/base/hash.hpp"
#include "idistill/data/token_file.hpp"
#include "key_parts.hpp"

namespace idistill::data {
namespace {

/// Keys of all ranks, ascending; the rows of equal ones ascend too.
std::vector<RowKey> all_keys(comm::Communicator& communicator, std::span<const RowKey> mine) {
    std::vector<RowKey> all;
    for (const auto& part : communicator.all_gather(mine)) all.insert(all.end(), part.begin(), part.end());
    std::sort(all.begin(), all.end());
    return all;
}

/// The file of every row.
std::vector<std::size_t> file_of_rows(const Corpus& corpus) {
    std::vector<std::size_t> file_of;
    for (std::size_t file = 0; file < corpus.files().size(); ++file)
        file_of.insert(file_of.end(), static_cast<std::size_t>(corpus.files()[file].size()), file);
    return file_of;
}

std::int64_t count_repeated(comm::Communicator& communicator, std::span<const RowKey> mine, std::int64_t rows) {
    std::int64_t repeated = 0;
    for_each_part_of_keys(communicator, mine, rows, [&repeated](std::span<const RowKey> keys) {
        for (std::size_t i = 1; i < keys.size(); ++i)
            if (!key_before(keys[i - 1], keys[i])) ++repeated;
    });
    communicator.all_reduce(std::span(&repeated, 1), comm::Reduction::sum);
    return repeated;
}

}  // namespace

RowKey key_of_content(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> label_mask,
                      std::int64_t row) noexcept {
    std::uint64_t high = 0xcbf29ce484222325ULL;
    std::uint64_t low = 0x9e3779b97f4a7c15ULL;
    for (std::size_t p = 0; p < tokens.size(); ++p) {
        const bool label = p > 0 && label_mask[p] != 0;
        const auto value = 2 * std::uint64_t{static_cast<std::uint32_t>(tokens[p])} + (label ? 1 : 0);
        high = (high ^ value) * 0x100000001b3ULL;
        low = mixed(low + value + 1);
    }
    return {.high = mixed(high + tokens.size()), .low = low, .row = row};
}

Overlap find_overlap(comm::Communicator& communicator, Corpus& pool, Corpus& targets) {
    const auto mine = pool.take_contents();
    const auto of_targets = all_keys(communicator, targets.take_contents());
    const auto task_of = file_of_rows(targets);
    const auto tasks = targets.files().size();

    std::vector<std::int64_t> rows;
    std::vector<std::int64_t> pool_rows(tasks, 0);
    std::vector<std::uint8_t> in_pool(of_targets.size(), 0);
    for (const auto& key : mine) {
        const auto [begin, end] = std::equal_range(of_targets.begin(), of_targets.end(), key, key_before);
        if (begin == end) continue;
        rows.push_back(key.row);
        std::size_t before = tasks;
        for (auto same = begin; same != end; ++same) {  // rows ascend, and tasks with them
            in_pool[static_cast<std::size_t>(same - of_targets.begin())] = 1;
            const auto task = task_of[static_cast<std::size_t>(same->row)];
            if (task != before) ++pool_rows[task];
            before = task;
        }
    }

    Overlap overlap;
    for (const auto& part : communicator.all_gather(std::span<const std::int64_t>(rows)))
        overlap.pool_rows.insert(overlap.pool_rows.end(), part.begin(), part.end());
    std::sort(overlap.pool_rows.begin(), overlap.pool_rows.end());
    communicator.all_reduce(std::span(pool_rows), comm::Reduction::sum);
    communicator.all_reduce(std::span(in_pool), comm::Reduction::max);
    for (const auto count : pool_rows) overlap.tasks.push_back({.pool_rows = count});
    for (std::size_t i = 0; i < in_pool.size(); ++i)
        overlap.tasks[task_of[static_cast<std::size_t>(of_targets[i].row)]].target_rows += in_pool[i];
    overlap.repeated = count_repeated(communicator, mine, pool.size());
    return overlap;
}

}  // namespace idistill::data
