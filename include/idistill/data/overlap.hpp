#pragma once
// Samples that are there twice, by content: equal tokens and labels, whatever their ids. By 128 bits of each: that two
// others have the same is not to be expected.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/row_key.hpp"

namespace idistill::data {

class Corpus;

/// The key of a sample's content. A label on the first token does not count: nothing predicts it.
RowKey key_of_content(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> label_mask,
                      std::int64_t row) noexcept;

/// The same on every rank, for any number of them.
struct Overlap {
    struct Task {
        std::int64_t pool_rows = 0;    ///< samples of the pool that it has too
        std::int64_t target_rows = 0;  ///< its samples that the pool has
    };
    std::vector<std::int64_t> pool_rows;  ///< ascending: those that a target has too
    std::vector<Task> tasks;              ///< of every file of the targets
    std::int64_t repeated = 0;            ///< samples of the pool that repeat one before
};

/// Collective, after the scans of both, whose keys it takes. Samples without labels do not count.
Overlap find_overlap(comm::Communicator& communicator, Corpus& pool, Corpus& targets);

}  // namespace idistill::data
