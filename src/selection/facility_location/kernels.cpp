#include "kernels.hpp"

#include <algorithm>
#include <cstring>

#include "idistill/selection/similarity.hpp"

namespace idistill::selection {
namespace {

#if defined(__AVX512F__)
constexpr int vector_floats = 16, group = 8;  // 16 accumulators in 32 registers
#else
constexpr int vector_floats = 8, group = 4;  // 8 in 16
#endif
constexpr int abreast = 2;  // vectors of a tile at a time
constexpr auto lanes = static_cast<std::size_t>(similarity_lanes);
typedef float Vector __attribute__((vector_size(vector_floats * sizeof(float))));

static_assert(lanes % (vector_floats * abreast) == 0 && lanes % gain_sums == 0);

inline Vector load(const float* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
}

/// `group` candidates at once.
void group_products(const float* tile, const float* const* candidates, std::size_t width, float* const* out) {
    for (std::size_t lane = 0; lane < lanes; lane += vector_floats * abreast) {
        Vector sums[group][abreast] = {};
        const float* from = tile + lane;
        for (std::size_t f = 0; f < width; ++f, from += lanes) {
            const Vector first = load(from), second = load(from + vector_floats);
            for (int c = 0; c < group; ++c) {
                const float factor = candidates[c][f];
                sums[c][0] += first * factor;
                sums[c][1] += second * factor;
            }
        }
        for (int c = 0; c < group; ++c)
            for (int v = 0; v < abreast; ++v)
                std::memcpy(out[c] + lane + static_cast<std::size_t>(v * vector_floats), &sums[c][v], sizeof(Vector));
    }
}

}  // namespace

// The last group is filled up with its last candidate: every product takes the same instructions.
void tile_products(std::span<const float> tile, std::span<const float> candidates, std::int64_t width,
                   std::span<float> out) {
    const auto columns = static_cast<std::size_t>(width);
    const auto count = out.size() / lanes;
    float unused[lanes];
    for (std::size_t first = 0; first < count; first += group) {
        const float* from[group];
        float* to[group];
        for (std::size_t c = 0; c < group; ++c) {
            from[c] = candidates.data() + std::min(first + c, count - 1) * columns;
            to[c] = first + c < count ? out.data() + (first + c) * lanes : unused;
        }
        group_products(tile.data(), from, columns, to);
    }
}

void add_gains(const float* similarity, const float* cover, const float* cap, double* sums) {
    double added[gain_sums];
    std::copy_n(sums, gain_sums, added);
    for (std::size_t lane = 0; lane < lanes; lane += gain_sums) {
        for (std::size_t i = 0; i < gain_sums; ++i) {
            const float reached = similarity[lane + i] < cap[lane + i] ? similarity[lane + i] : cap[lane + i];
            const float gain = reached - cover[lane + i];
            added[i] += static_cast<double>(gain > 0.0F ? gain : 0.0F);
        }
    }
    std::copy_n(added, gain_sums, sums);
}

}  // namespace idistill::selection
