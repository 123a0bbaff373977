#pragma once
// What a request's budget and caps leave room for.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/base/error.hpp"
#include "idistill/selection/selection.hpp"

namespace idistill::selection {

/// What limits the picks that are still to come.
struct Limits {
    std::int64_t samples = 0;              ///< at most this many more; never more than there are candidates left
    std::int64_t tokens = 0;               ///< at most this many more tokens
    std::vector<std::int64_t> per_source;  ///< at most this many more of each source

    [[nodiscard]] bool has_room(std::int32_t source) const { return per_source[static_cast<std::size_t>(source)] > 0; }
    /// Counts a picked sample.
    void take(std::int32_t source, std::int32_t length) {
        --samples;
        tokens -= length;
        --per_source[static_cast<std::size_t>(source)];
    }
};

/// Throws Error(usage) unless the budget has one number, of at least 1.
void check_budget(const Budget& budget);

/// Tokens and sources of a request; no samples yet (samples_to_pick).
Limits limits_of(const Request& request);

/// Picks to expect, from the mean length of the eligible rows where the budget is in tokens. It sets how many samples
/// stochastic greedy draws for a pick.
std::int64_t expected_picks(const Request& request);

/// Samples of the budget where so many are open of every source. Throws Error(usage) where that is fewer than asked
/// for, unless the budget is at_most.
std::int64_t samples_to_pick(const Request& request, std::span<const std::int64_t> open, const Limits& limits);

/// A token budget below the length of the first choice.
Error no_room_for_first(const Limits& limits);

}  // namespace idistill::selection
