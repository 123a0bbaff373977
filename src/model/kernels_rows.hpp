#pragma once
// What the fused element-wise steps of kernels.hpp have in common: each is a function of a row and of the lanes that
// share it. A GPU's lanes are threads; on a host they are taken one after the other (tests). Numbers are stored in fp32
// or bfloat16, all arithmetic is fp32.
//
// A step has
//   operator()<Whole>(lanes, row)   rows are contiguous and `width` long, unless said otherwise; Whole: all of them are
//                                   vectors of 16 bytes
// Lanes have
//   each(n, body)                   body(i) once for every i < n, by any lane
//   reduce(n, combine, body)        Two: body(state, i) for every i < n, each lane from combine.neutral(), and the
//                                   lanes' states combined; all lanes get it, and none goes on before all are done
// Of combine, first(a, b) is associative and symmetric to the bit; aligned(state, first) is a state when the first
// number of all is known, after which second numbers are added. Which lane takes what, and in which order states are
// combined, follows from n and the number of lanes alone: the same bits for any number of rows.

#include <cstdint>

#include "kernels_numbers.hpp"

namespace idistill::model::rows {

struct Two {
    float first, second;
};

/// Two sums.
struct Sums {
    IDISTILL_ROW Two neutral() const { return {0.0F, 0.0F}; }
    IDISTILL_ROW float first(float a, float b) const { return a + b; }
    IDISTILL_ROW Two aligned(Two own, float first) const { return {first, own.second}; }
};

/// How many lanes share a row of so many vectors: one warp, or a block that leaves some to each.
constexpr int lanes_for(std::int64_t vectors) {
    if (vectors <= 64) return 32;
    if (vectors > 2048) return 1024;
    return vectors > 256 ? 256 : static_cast<int>((vectors + 31) / 32 * 32);
}

}  // namespace idistill::model::rows
