#pragma once
// The steps of src/model/kernels_table.hpp on the host, a row's lanes one after the other, and sums combined in the
// order that a GPU combines them in.

#include <cstdint>
#include <vector>

#include "../../src/model/kernels_table.hpp"

namespace idistill::test {

struct LanesInOrder {
    int count;

    template <class Body>
    void each(int n, Body&& body) const {
        for (int lane = 0; lane < count; ++lane)
            for (int i = lane; i < n; i += count) body(i);
    }

    template <class Combine, class Body>
    model::rows::Two reduce(int n, const Combine& combine, Body&& body) const {
        std::vector<model::rows::Two> states(static_cast<std::size_t>(count), combine.neutral());
        for (int lane = 0; lane < count; ++lane)
            for (int i = lane; i < n; i += count) body(states[static_cast<std::size_t>(lane)], i);
        while (states.size() > 1) {
            std::vector<model::rows::Two> of_warps;
            for (std::size_t first = 0; first < states.size(); first += warp) {
                std::vector<model::rows::Two> own(warp, combine.neutral());
                for (std::size_t i = 0; i < warp && first + i < states.size(); ++i) own[i] = states[first + i];
                of_warps.push_back(over_warp(own, combine));
            }
            states = of_warps;
        }
        return states.front();
    }

private:
    static constexpr std::size_t warp = 32;

    template <class Combine>
    static model::rows::Two over_warp(std::vector<model::rows::Two> own, const Combine& combine) {
        std::vector<float> first;
        for (const auto& state : own) first.push_back(state.first);
        exchange(first, [&](float a, float b) { return combine.first(a, b); });
        std::vector<float> second;
        for (std::size_t i = 0; i < warp; ++i) second.push_back(combine.aligned(own[i], first[i]).second);
        exchange(second, [](float a, float b) { return a + b; });
        return {first[0], second[0]};
    }
    template <class Combine>
    static void exchange(std::vector<float>& values, Combine&& combine) {
        for (std::size_t distance = warp / 2; distance > 0; distance /= 2) {
            const auto before = values;
            for (std::size_t i = 0; i < warp; ++i) values[i] = combine(before[i], before[i ^ distance]);
        }
    }
};

/// So many `Lanes` for every row, or as many as a GPU gives it (0).
template <int Lanes>
struct LauncherInOrder {
    static constexpr int invalid = 1;

    template <class Step>
    static int rows(const Step& step, bool whole, std::int64_t rows, std::int64_t vectors, void* /*stream*/) {
        const LanesInOrder lanes{Lanes == 0 ? model::rows::lanes_for(vectors) : Lanes};
        for (std::int64_t row = 0; row < rows; ++row) {
            if (whole)
                step.template operator()<true>(lanes, row);
            else
                step.template operator()<false>(lanes, row);
        }
        return 0;
    }

    template <class T>
    static int bucket_sums(const T* x, std::int64_t rows, std::int64_t stride, int /*width*/, const std::int32_t* order,
                           const std::int32_t* start, int buckets, float* sketches, void* /*stream*/) {
        struct Number {
            T at[1];
        };
        for (std::int64_t row = 0; row < rows; ++row)
            for (int bucket = 0; bucket < buckets; ++bucket) {
                float sum[1];
                model::rows::bucket_sums<1>(
                    order, start[bucket], start[bucket + 1], [&](int i) { return Number{{x[row * stride + i]}}; }, sum);
                sketches[row * buckets + bucket] = sum[0];
            }
        return 0;
    }

    static int product_sums(const model::rows::Complex* a, const model::rows::Complex* b, const std::int32_t* offsets,
                            std::int64_t segments, std::int64_t width, model::rows::Complex* sums, void* /*stream*/) {
        for (std::int64_t segment = 0; segment < segments; ++segment)
            for (std::int64_t column = 0; column < width; ++column) {
                model::rows::Complex sum{0.0F, 0.0F};
                for (int part = 0; part < model::rows::product_sums; ++part) {
                    const auto own = model::rows::product_sum(a + column, b + column, offsets[segment] + part,
                                                              offsets[segment + 1], width);
                    sum = {sum.real + own.real, sum.imaginary + own.imaginary};
                }
                sums[segment * width + column] = sum;
            }
        return 0;
    }
};

template <int Lanes>
const model::CudaKernels& kernels_in_order() {
    static const auto kernels = model::KernelFunctions<LauncherInOrder<Lanes>>::table(
        [](int) { return 0; }, [](int) { return "arguments out of range"; });
    return kernels;
}

}  // namespace idistill::test
