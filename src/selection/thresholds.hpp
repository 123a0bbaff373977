#pragma once
// Thresholds of weights that fall off linearly above them, under a largest weight and most weight of groups of rows.
//
// A row with score s has weight w = clamp(s - nu, 0, lambda X) / lambda. Rows of no group, and of groups below their
// most weight, share one threshold nu; a full group has a higher one of its own. So a group's threshold is the higher
// of two: where the group alone has its most weight, and where all rows together have the total.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "block_sums.hpp"
#include "idistill/selection/weight_limits.hpp"

namespace idistill::selection {

/// What limits the weights of this rank's rows beside w >= 0.
struct WeightLimits {
    double total = 0.0;                                        ///< N, what all weights add up to
    double largest = std::numeric_limits<double>::infinity();  ///< X: no weight is above it
    std::span<const std::int32_t> group;                       ///< (n) a row's place in group_most, or -1; or empty
    std::span<const double> group_most;                        ///< above 0, the same on every rank
};

/// Collective: the rows of all ranks, `rows` of them here, under these limits.
WeightRoom room_for_weights(comm::Communicator& communicator, const WeightLimits& limits, std::size_t rows);

/// base + offset, which keeps the digits of small distances from the base.
struct Threshold {
    double base = 0.0;
    double offset = 0.0;
    [[nodiscard]] double value() const noexcept { return base + offset; }
    [[nodiscard]] double distance(double score) const noexcept { return (score - base) - offset; }
};

struct Thresholds {
    Threshold common;              ///< base -infinity: every row and group is at its limit
    std::vector<Threshold> group;  ///< (groups) where the group alone has its most weight; base -infinity: nowhere
    [[nodiscard]] bool full(std::size_t place) const noexcept { return group[place].value() > common.value(); }
    [[nodiscard]] bool in_full_group(std::int32_t place) const noexcept {
        return place >= 0 && full(static_cast<std::size_t>(place));
    }
    [[nodiscard]] const Threshold& of(std::int32_t place) const noexcept {
        return in_full_group(place) ? group[static_cast<std::size_t>(place)] : common;
    }
};

class ThresholdFinder {
public:
    /// Collective. The limits must leave room for the total.
    ThresholdFinder(const BlockSums& sums, const WeightLimits& limits);

    /// Collective, the same on every rank: exact to rounding, whatever the scores (n), which are at most 0. `near`: a
    /// common threshold to start from, or not a number; only speed depends on it.
    [[nodiscard]] Thresholds find(std::span<const double> scores, double lambda, double near) const;

private:
    [[nodiscard]] std::vector<Threshold> of_groups(std::span<const double> scores, double lambda) const;
    [[nodiscard]] Threshold common(std::span<const double> scores, double lambda, double near,
                                   const Thresholds& found) const;

    const BlockSums& sums_;
    WeightLimits limits_;
    std::vector<bool> can_fill_;  ///< (groups) its rows have room for more than the group's most weight
    bool all_full_ = false;       ///< the limits leave room for nothing but the total
};

}  // namespace idistill::selection
