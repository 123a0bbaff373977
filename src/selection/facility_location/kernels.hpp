#pragma once
// The two loops that a facility location spends its time in, built for the processor (IDISTILL_ARCH).

#include <cstdint>
#include <span>

namespace idistill::selection {

/// Inner products of a tile (F x similarity_lanes) with candidates (m x F) -> out (m x similarity_lanes). Each is added
/// up in the order of f, whatever stands beside it.
void tile_products(std::span<const float> tile, std::span<const float> candidates, std::int64_t width,
                   std::span<float> out);

/// Sums are kept apart by the sample's place modulo this, so that they are the same with and without terms of zero.
inline constexpr std::size_t gain_sums = 8;

/// sums[lane % gain_sums] += max(min(similarity, cap) - cover, 0), for the lanes of a tile in their order.
void add_gains(const float* similarity, const float* cover, const float* cap, double* sums);

/// One sum from those apart.
inline double summed_gain(const double* sums) {
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

}  // namespace idistill::selection
