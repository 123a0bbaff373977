#pragma once

#include <compare>
#include <cstdint>

namespace idistill::data {

/// 128 bits of what a row has, its id or its content, and which row of the corpus it is.
struct RowKey {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    std::int64_t row = 0;

    /// By key, then by row.
    auto operator<=>(const RowKey&) const = default;
};

/// By key alone.
[[nodiscard]] inline bool key_before(const RowKey& a, const RowKey& b) noexcept {
    return a.high != b.high ? a.high < b.high : a.low < b.low;
}

}  // namespace idistill::data
