#pragma once
// The steps with a softmax, a row at a time (kernels_rows.hpp): of attention, and the loss. Formulas as in
// kernels_cpu.hpp.

#include <float.h>
#include <math.h>

#include <cstdint>

#include "kernels_rows.hpp"

namespace idistill::model::rows {

/// The largest of some numbers x, and the sum of exp(scale (x - largest)).
struct Exponentials {
    float scale;
    IDISTILL_ROW Two neutral() const { return {-FLT_MAX, 0.0F}; }
    IDISTILL_ROW float first(float a, float b) const { return fmaxf(a, b); }
    IDISTILL_ROW Two aligned(Two own, float largest) const {
        return {largest, own.second * expf(scale * (own.first - largest))};
    }
    /// Takes the first `count` numbers of x into the state.
    template <class T>
    IDISTILL_ROW void take(Two& state, const Vector<T>& x, int count) const {
        float largest = state.first;
        for (int i = 0; i < per_vector<T>; ++i)
            if (i < count) largest = fmaxf(largest, x.at[i]);
        state = aligned(state, largest);
        for (int i = 0; i < per_vector<T>; ++i)
            if (i < count) state.second += expf(scale * (x.at[i] - largest));
    }
};

/// In place. Row r of matrix m sees the first valid[(m / sharing) * (rows / group) + r / group] entries: matrices in
/// groups of `sharing` have the same, sharing 0: all of them.
template <class T>
struct CausalSoftmax {
    T* scores;
    std::uint32_t rows;
    int width;
    std::uint32_t group, sharing;
    const std::int64_t* valid;
    float scale;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        T* own = scores + row * width;
        const auto at = static_cast<std::uint32_t>(row);
        const std::uint32_t matrix = at / rows, query = at % rows / group;
        const std::uint32_t block = sharing == 0 ? 0 : matrix / sharing;
        const int length = static_cast<int>(valid[static_cast<std::int64_t>(block) * (rows / group) + query]);
        const Exponentials exponentials{scale};
        const Two state = lanes.reduce(vectors_of<T>(length), exponentials, [&](Two& sum, int v) {
            exponentials.take(sum, load<Whole>(own, v, width), length - v * per_vector<T>);
        });
        const float inverse = 1.0F / state.second;
        lanes.each(vectors_of<T>(width), [&](int v) {
            const int count = length - v * per_vector<T>;
            Vector<T> result;
            if (count > 0) result = load<Whole>(own, v, width);
            for (int i = 0; i < per_vector<T>; ++i)
                result.at[i] = i < count ? expf(scale * (result.at[i] - state.first)) * inverse : 0.0F;
            store<Whole>(own, v, width, result);
        });
    }
};

/// In place on `values`.
template <class T>
struct SoftmaxJacobian {
    const T* probabilities;
    T* values;
    int width;
    float scale;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T* p = probabilities + row * width;
        T* own = values + row * width;
        const int vectors = vectors_of<T>(width);
        const Two sums = lanes.reduce(vectors, Sums{}, [&](Two& sum, int v) {
            const auto a = load<Whole>(p, v, width), b = load<Whole>(own, v, width);
            for (int i = 0; i < per_vector<T>; ++i) sum.first += a.at[i] * b.at[i];
        });
        lanes.each(vectors, [&](int v) {
            const auto a = load<Whole>(p, v, width);
            auto result = load<Whole>(own, v, width);
            for (int i = 0; i < per_vector<T>; ++i) result.at[i] = scale * a.at[i] * (result.at[i] - sums.first);
            store<Whole>(own, v, width, result);
        });
    }
};

/// In place; losses and scales fp32.
template <class T>
struct CrossEntropy {
    T* logits;
    int width;
    const std::int64_t* labels;
    const float* scale;
    float* loss;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        T* own = logits + row * width;
        const int label = static_cast<int>(labels[row]), vectors = vectors_of<T>(width);
        const float label_logit = widen(own[label]), weight = scale[row];
        const Exponentials exponentials{1.0F};
        const Two state = lanes.reduce(vectors, exponentials, [&](Two& sum, int v) {
            exponentials.take(sum, load<Whole>(own, v, width), Whole ? per_vector<T> : width - v * per_vector<T>);
        });
        const float factor = weight / state.second;
        lanes.each(vectors, [&](int v) {
            auto result = load<Whole>(own, v, width);
            for (int i = 0; i < per_vector<T>; ++i) {
                const float probability = factor * expf(result.at[i] - state.first);
                result.at[i] = v * per_vector<T> + i == label ? probability - weight : probability;
            }
            store<Whole>(own, v, width, result);
        });
        lanes.each(1, [&](int) { loss[row] = logf(state.second) + (state.first - label_logit); });
    }
};

}  // namespace idistill::model::rows
