#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace idistill::work {

/// 64-bit checksum of a unit's values, taken as 32-bit words in order: multiply, xor, rotate, multiply for every word
/// (the round of xxHash), splitmix64's finaliser at the end. Starts from the unit's first row and row count, so that
/// rows found in the wrong place do not fit either. NaN and -0.0 count with their bits.
class Checksum {
public:
    Checksum(std::int64_t first_row, std::int64_t rows) noexcept {
        add(static_cast<std::uint64_t>(first_row));
        add(static_cast<std::uint64_t>(rows));
    }

    void update(std::span<const float> values) noexcept {
        for (const float value : values) add(std::bit_cast<std::uint32_t>(value));
    }

    [[nodiscard]] std::uint64_t value() const noexcept {
        std::uint64_t x = state_;
        x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
        x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
        return x ^ (x >> 31U);
    }

private:
    void add(std::uint64_t word) noexcept {
        state_ = std::rotl(state_ ^ (word * 0xc2b2ae3d27d4eb4fULL), 31) * 0x9e3779b185ebca87ULL + 0x27d4eb2f165667c5ULL;
    }

    std::uint64_t state_ = 0x165667b19e3779f9ULL;
};

}  // namespace idistill::work
