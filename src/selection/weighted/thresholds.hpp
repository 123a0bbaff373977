#pragma once
// Thresholds of weights that fall off linearly above them, under a largest weight and most weight of groups of rows.
//
// A row with score s has weight w = clamp(s - nu, 0, lambda X) / lambda. Rows of no group, and of groups below their
// most weight, share one threshold nu; a full group has a higher one of its own. So a group's threshold is the higher
// of two: where the group alone has its most weight, and where all rows together have the total.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/selection/weighted.hpp"
#include "over_ranks.hpp"

namespace idistill::selection {

/// Collective: room of the rows of all ranks, `rows` of them here, in these groups (rows; empty: none has one).
WeightRoom room_of(comm::Communicator& communicator, const WeightedProblem& problem,
                   std::span<const std::int32_t> group, std::size_t rows);

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
    [[nodiscard]] const Threshold& of(std::int32_t place) const noexcept {
        const auto g = static_cast<std::size_t>(place);
        return place >= 0 && full(g) ? group[g] : common;
    }
};

class ThresholdFinder {
public:
    /// Collective. The problem's limits must leave room for the total. It refers to both.
    ThresholdFinder(const BlockSums& sums, const WeightedProblem& problem);

    /// Collective, the same on every rank: exact to rounding, whatever the scores (n), which are at most 0. `near`: a
    /// common threshold to start from, or not a number; only speed depends on it.
    [[nodiscard]] Thresholds find(std::span<const double> scores, double lambda, double near) const;

private:
    [[nodiscard]] std::vector<Threshold> of_groups(std::span<const double> scores, double lambda) const;
    [[nodiscard]] Threshold common(std::span<const double> scores, double lambda, double near,
                                   const Thresholds& found) const;

    const BlockSums& sums_;
    const WeightedProblem& problem_;
    std::vector<bool> can_fill_;  ///< (groups) its rows have room for more than the group's most weight
    bool all_full_ = false;       ///< the limits leave room for nothing but the total
};

}  // namespace idistill::selection
