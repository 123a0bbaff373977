#pragma once
// Work units and micro-batches: how a stage is cut, from lengths alone, never from the rank count.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/data/rows.hpp"

namespace idistill::data {

/// A block of consecutive positions of a stage, done by one rank at a time, restarted as a whole.
struct WorkUnit {
    RowRange rows;
    double flops = 0.0;       ///< planned cost
    std::int64_t tokens = 0;  ///< of its samples, for rates
};

/// Cuts [0, flops_per_row.size()) into consecutive units of at most `unit_flops` (one row at least) and at most
/// `unit_rows` rows. No unit crosses a position in `borders` (sorted; may be empty). Pure.
std::vector<WorkUnit> cut_units(std::span<const double> flops_per_row, double unit_flops, std::int64_t unit_rows,
                                std::span<const std::int64_t> borders = {});

/// Unit numbers in descending planned cost; equal costs by number. Pure.
std::vector<std::int64_t> claim_order(std::span<const WorkUnit> units);

/// Packs rows 0..lengths.size()-1 into micro-batches of at most `batch_tokens` tokens (one row at least), sorted by
/// length, longest first, equal lengths by row, so that a batch holds similar lengths. Rows with length 0 are left out.
/// Pure.
std::vector<std::vector<std::int64_t>> pack_micro_batches(std::span<const std::int32_t> lengths,
                                                          std::int64_t batch_tokens);

/// Contiguous shard of rank `rank`: sizes differ by at most one. Pure.
RowRange shard_of(std::int64_t rows, int rank, int size);

}  // namespace idistill::data
