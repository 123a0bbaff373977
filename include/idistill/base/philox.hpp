#pragma once
// Counter-based random numbers (Philox4x32-10, Salmon et al., SC11): the same bits on every device and rank count.

#include <array>
#include <cstdint>
#include <string_view>

namespace idistill {

/// A stream is keyed by (seed, purpose, name); its numbers are addressed by (row, column), in any order.
class Philox {
public:
    Philox(std::uint64_t seed, std::string_view purpose, std::string_view name = {});

    /// Four independent 32-bit words at (row, column).
    [[nodiscard]] std::array<std::uint32_t, 4> words(std::uint64_t row, std::uint64_t column) const noexcept;

    /// Two independent standard normal numbers at (row, column) (Box-Muller in double precision).
    [[nodiscard]] std::array<float, 2> normals(std::uint64_t row, std::uint64_t column) const noexcept;

    /// Uniform integer in [0, bound), exactly uniform (Lemire's rejection), bound > 0.
    [[nodiscard]] std::uint64_t below(std::uint64_t bound, std::uint64_t row, std::uint64_t column) const noexcept;

private:
    std::uint64_t key_;
    std::uint32_t stream_;
};

}  // namespace idistill
