#include "kernels.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace idistill::propagation::cpu {
namespace {

constexpr std::int64_t columns_at_once = tile_lanes;  // with `rows_at_once` of them the sums fill the registers
constexpr std::int64_t rows_at_once = 4;

/// The sums of `Rows` left halves with a packed block of right ones (width x columns_at_once).
template <std::int64_t Rows>
void block_scores(const float* const (&left)[Rows], const float* packed, const float* weight, float bias,
                  std::int64_t width, float (&sums)[Rows][columns_at_once]) {
    for (auto& row : sums)
        for (float& sum : row) sum = bias;
    for (std::int64_t h = 0; h < width; ++h, packed += columns_at_once) {
        for (std::int64_t row = 0; row < Rows; ++row) {
            const float own = left[row][h], factor = weight[h];
#pragma omp simd
            for (std::int64_t j = 0; j < columns_at_once; ++j) {
                const float sum = own + packed[j];
                sums[row][j] += factor * (sum < 0.0F ? 0.0F : sum);  // keeps what is not a number
            }
        }
    }
}

template <std::int64_t Rows>
void add_rows(const Halves& left, std::int64_t first, const float* packed, const float* weight, float bias,
              std::int64_t width, std::int64_t count, std::int64_t columns, float* scores) {
    const float* rows[Rows];
    for (std::int64_t row = 0; row < Rows; ++row) rows[row] = left.values + (first + row) * left.stride;
    float sums[Rows][columns_at_once];
    block_scores<Rows>(rows, packed, weight, bias, width, sums);
    for (std::int64_t row = 0; row < Rows; ++row)
        for (std::int64_t j = 0; j < count; ++j) scores[(first + row) * columns + j] += sums[row][j];
}

/// Scores of all left halves with `count` of a packed block.
void add_block(const Halves& left, const float* packed, const float* weight, float bias, std::int64_t width,
               std::int64_t count, std::int64_t columns, float* scores) {
    std::int64_t row = 0;
    for (; row + rows_at_once <= left.rows; row += rows_at_once)
        add_rows<rows_at_once>(left, row, packed, weight, bias, width, count, columns, scores);
    for (; row < left.rows; ++row) add_rows<1>(left, row, packed, weight, bias, width, count, columns, scores);
}

}  // namespace

void add_pair_scores(const Halves& left, const Halves& right, const float* weight, float bias, std::int64_t width,
                     float* scores) {
    std::vector<float> packed(static_cast<std::size_t>(width * columns_at_once), 0.0F);
    for (std::int64_t column = 0; column < right.rows; column += columns_at_once) {
        const auto count = std::min(columns_at_once, right.rows - column);
        for (std::int64_t j = 0; j < count; ++j)
            for (std::int64_t h = 0; h < width; ++h)
                packed[static_cast<std::size_t>(h * columns_at_once + j)] =
                    right.values[(column + j) * right.stride + h];
        add_block(left, packed.data(), weight, bias, width, count, right.rows, scores + column);
    }
}

void tile_scores(const Halves& left, const float* right, const float* weight, float bias, std::int64_t width,
                 float* scores) {
    std::fill_n(scores, left.rows * tile_lanes, 0.0F);
    add_block(left, right, weight, bias, width, tile_lanes, tile_lanes, scores);
}

void adam_step(float* parameters, const float* gradient, float* first, float* second, std::int64_t count,
               const AdamRates& rates) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = gradient[i];
        first[i] = rates.beta1 * first[i] + (1.0F - rates.beta1) * g;
        second[i] = rates.beta2 * second[i] + (1.0F - rates.beta2) * g * g;
        parameters[i] -= rates.rate * first[i] / (std::sqrt(second[i]) * rates.correction + rates.epsilon);
    }
}

}  // namespace idistill::propagation::cpu
