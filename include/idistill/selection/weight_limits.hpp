#pragma once
// Room for weights: what a largest weight and most weight of groups of rows leave of it. Pure.

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace idistill::selection {

/// Rows that can have weight, and their limits.
struct WeightRoom {
    double total = 0.0;                                        ///< N, what all weights must add up to
    double largest = std::numeric_limits<double>::infinity();  ///< no weight is above it
    std::vector<double> group_most;                            ///< (groups) weight of a group's rows together, at most
    std::vector<std::int64_t> rows;                            ///< (groups + 1) of each group; last: of no group

    /// Most that all rows together can have; infinite where nothing limits some of them.
    [[nodiscard]] double most() const noexcept;

    /// Fewest rows that can have the total: of each group and of the rest, as `rows`. Nothing where all are too few.
    [[nodiscard]] std::optional<std::vector<std::int64_t>> fewest() const;
};

/// Throws Error(usage) where the rows, or `count` of them, cannot have the total, and says what would do:
/// --max-weight, --source-share or --select.
void check_room(const WeightRoom& room, std::optional<std::int64_t> count);

}  // namespace idistill::selection
