#pragma once
// Count sketches of rows, and products of their spectra (of the kernels in kernels_cuda.hpp, bucket_sums and
// product_sums).

#include <cstdint>
#include <initializer_list>

#include "kernels_numbers.hpp"

namespace idistill::model::rows {

/// Sums of one bucket in `Rows` rows: entries [first, last) of `order` are columns i, or ~i where they count negative;
/// at(i) gives the rows' numbers there.
template <int Rows, class At>
IDISTILL_ROW void bucket_sums(const std::int32_t* order, std::int32_t first, std::int32_t last, At&& at,
                              float (&sums)[Rows]) {
    for (int r = 0; r < Rows; ++r) sums[r] = 0.0F;
    for (std::int32_t entry = first; entry < last; ++entry) {
        const std::int32_t signed_column = order[entry];
        const auto numbers = at(signed_column < 0 ? ~signed_column : signed_column);
        for (int r = 0; r < Rows; ++r) {
            const float number = widen(numbers.at[r]);
            sums[r] += signed_column < 0 ? -number : number;
        }
    }
}

/// Bytes of each of `width` columns that a block of the CUDA kernel has in shared memory, which makes 1 to 8 rows: 16
/// or 8 where that leaves room for some blocks on a multiprocessor (`comfortable` bytes each), else 4; 0 where these
/// exceed the `limit` of a block.
constexpr int bytes_of_column(std::int64_t width, std::int64_t comfortable, std::int64_t limit) {
    for (const int bytes : {16, 8})
        if (bytes * width <= comfortable && bytes * width <= limit) return bytes;
    return 4 * width <= limit ? 4 : 0;
}

struct alignas(8) Complex {
    float real, imaginary;
};

/// Rows of a segment are added in so many sums, row r in that of r modulo them, and those one after the other.
inline constexpr int product_sums = 8;

/// Sum of a[r] b[r] over rows first, first + product_sums, ... below last; rows are `width` numbers apart.
IDISTILL_ROW Complex product_sum(const Complex* a, const Complex* b, std::int64_t first, std::int64_t last,
                                 std::int64_t width) {
    Complex sum{0.0F, 0.0F};
    for (std::int64_t row = first; row < last; row += product_sums) {
        const Complex x = a[row * width], y = b[row * width];
        sum.real += x.real * y.real - x.imaginary * y.imaginary;
        sum.imaginary += x.real * y.imaginary + x.imaginary * y.real;
    }
    return sum;
}

}  // namespace idistill::model::rows
