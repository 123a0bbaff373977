#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace idistill {

/// True when none of the values is infinite or not a number.
[[nodiscard]] inline bool all_finite(std::span<const float> values) noexcept {
    std::int32_t largest = 0;  // magnitude bits are ordered as the magnitudes, not-a-number above infinity
    for (const float value : values) largest = std::max(largest, std::bit_cast<std::int32_t>(value) & 0x7fffffff);
    return largest < 0x7f800000;
}

/// Whether what lies between these two may be one number but for the rounding of float32 passes: nothing to rank by.
[[nodiscard]] inline bool equal_but_for_rounding(double lowest, double highest) noexcept {
    return highest - lowest <= 1e-5 * std::max(highest, -lowest);
}

}  // namespace idistill
