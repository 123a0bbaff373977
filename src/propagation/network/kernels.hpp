#pragma once
// Passes over contiguous float32 numbers, compiled for the processor (IDISTILL_ARCH).

#include <cstdint>

namespace idistill::propagation::cpu {

/// Halves of samples, `stride` numbers apart, of which the first are hidden units.
struct Halves {
    const float* values;
    std::int64_t rows;
    std::int64_t stride;
};

/// scores (left rows x right rows) += bias + sum over h < width of weight[h] * max(left[h] + right[h], 0), added in
/// the order of h: a score's bits depend on its two halves alone.
void add_pair_scores(const Halves& left, const Halves& right, const float* weight, float bias, std::int64_t width,
                     float* scores);

/// The same sums, with right halves as they are worked with: (width x tile_lanes) of as many; scores (left rows x
/// tile_lanes) are set.
inline constexpr std::int64_t tile_lanes = 32;
void tile_scores(const Halves& left, const float* right, const float* weight, float bias, std::int64_t width,
                 float* scores);

struct AdamRates {
    float rate;        ///< of the step, over 1 - beta1^t
    float correction;  ///< 1 / sqrt(1 - beta2^t)
    float beta1, beta2, epsilon;
};

/// One step of Adam (arXiv 1412.6980) without decay; `first` and `second` are its moments.
void adam_step(float* parameters, const float* gradient, float* first, float* second, std::int64_t count,
               const AdamRates& rates);

}  // namespace idistill::propagation::cpu
