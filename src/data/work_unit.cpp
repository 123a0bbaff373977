#include "idistill/data/work_unit.hpp"

#include <algorithm>
#include <numeric>

namespace idistill::data {

std::vector<WorkUnit> cut_units(std::span<const double> flops_per_row, double unit_flops, std::int64_t unit_rows,
                                std::span<const std::int64_t> borders) {
    std::vector<WorkUnit> units;
    auto border = borders.begin();
    for (std::int64_t row = 0; row < static_cast<std::int64_t>(flops_per_row.size()); ++row) {
        bool at_border = false;
        for (; border != borders.end() && *border <= row; ++border) at_border = at_border || *border == row;
        const double flops = flops_per_row[static_cast<std::size_t>(row)];
        const bool full =
            units.empty() || units.back().rows.count >= unit_rows || units.back().flops + flops > unit_flops;
        if (full || at_border) units.push_back({.rows = {row, 0}, .flops = 0.0});
        units.back().rows.count += 1;
        units.back().flops += flops;
    }
    return units;
}

std::vector<std::int64_t> claim_order(std::span<const WorkUnit> units) {
    std::vector<std::int64_t> order(units.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return units[static_cast<std::size_t>(a)].flops > units[static_cast<std::size_t>(b)].flops;
    });
    return order;
}

std::vector<std::vector<std::int64_t>> pack_micro_batches(std::span<const std::int32_t> lengths,
                                                          std::int64_t batch_tokens) {
    std::vector<std::int64_t> rows;
    for (std::size_t row = 0; row < lengths.size(); ++row) {
        if (lengths[row] > 0) rows.push_back(static_cast<std::int64_t>(row));
    }
    const auto length = [&](std::int64_t row) { return lengths[static_cast<std::size_t>(row)]; };
    std::stable_sort(rows.begin(), rows.end(), [&](std::int64_t a, std::int64_t b) { return length(a) > length(b); });

    std::vector<std::vector<std::int64_t>> batches;
    std::int64_t tokens = 0;
    for (const std::int64_t row : rows) {
        if (batches.empty() || tokens + length(row) > batch_tokens) {
            batches.emplace_back();
            tokens = 0;
        }
        batches.back().push_back(row);
        tokens += length(row);
    }
    return batches;
}

RowRange shard_of(std::int64_t rows, int rank, int size) {
    const std::int64_t base = rows / size;
    const std::int64_t longer = rows % size;  // the first ranks hold one row more
    return {.first = rank * base + std::min<std::int64_t>(rank, longer), .count = base + (rank < longer ? 1 : 0)};
}

}  // namespace idistill::data
