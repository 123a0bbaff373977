#pragma once
// The steps of a block's layers, a row at a time (kernels_rows.hpp): RMS norm, SwiGLU and rotary positions. Formulas as
// in kernels_cpu.hpp.

#include <math.h>

#include <cstdint>

#include "kernels_rows.hpp"

namespace idistill::model::rows {

IDISTILL_ROW float inverse_root(float squares, int width, float epsilon) {
    return 1.0F / sqrtf(squares / static_cast<float>(width) + epsilon);
}

template <class T>
struct RmsNorm {
    const T *x, *weight;
    float epsilon;
    int width;
    T* y;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T* from = x + row * width;
        T* to = y + row * width;
        const int vectors = vectors_of<T>(width);
        const Two sums = lanes.reduce(vectors, Sums{}, [&](Two& sum, int v) {
            const auto a = load<Whole>(from, v, width);
            for (int i = 0; i < per_vector<T>; ++i) sum.first += a.at[i] * a.at[i];
        });
        const float scale = inverse_root(sums.first, width, epsilon);
        lanes.each(vectors, [&](int v) {
            const auto a = load<Whole>(from, v, width), w = load<Whole>(weight, v, width);
            Vector<T> result;
            for (int i = 0; i < per_vector<T>; ++i) result.at[i] = a.at[i] * scale * w.at[i];
            store<Whole>(to, v, width, result);
        });
    }
};

template <class T>
struct RmsNormBackward {
    const T *x, *weight;
    float epsilon;
    const T* gradient_y;
    int width;
    T* gradient_x;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T *from = x + row * width, *gradient = gradient_y + row * width;
        T* to = gradient_x + row * width;
        const int vectors = vectors_of<T>(width);
        const Two sums = lanes.reduce(vectors, Sums{}, [&](Two& sum, int v) {
            const auto a = load<Whole>(from, v, width), w = load<Whole>(weight, v, width),
                       g = load<Whole>(gradient, v, width);
            for (int i = 0; i < per_vector<T>; ++i) {
                sum.first += a.at[i] * a.at[i];
                sum.second += a.at[i] * w.at[i] * g.at[i];
            }
        });
        const float scale = inverse_root(sums.first, width, epsilon);
        const float along = sums.second * scale * scale / static_cast<float>(width);
        lanes.each(vectors, [&](int v) {
            const auto a = load<Whole>(from, v, width), w = load<Whole>(weight, v, width),
                       g = load<Whole>(gradient, v, width);
            auto result = load<Whole>(to, v, width);
            for (int i = 0; i < per_vector<T>; ++i) result.at[i] += scale * (w.at[i] * g.at[i] - a.at[i] * along);
            store<Whole>(to, v, width, result);
        });
    }
};

template <class T>
struct RmsNormTangent {
    const T *x, *weight;
    float epsilon;
    const T *tangent_x, *tangent_weight;  ///< of the weight: may be null
    int width;
    T* tangent_y;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T *from = x + row * width, *tangent = tangent_x + row * width;
        T* to = tangent_y + row * width;
        const int vectors = vectors_of<T>(width);
        const Two sums = lanes.reduce(vectors, Sums{}, [&](Two& sum, int v) {
            const auto a = load<Whole>(from, v, width), t = load<Whole>(tangent, v, width);
            for (int i = 0; i < per_vector<T>; ++i) {
                sum.first += a.at[i] * a.at[i];
                sum.second += a.at[i] * t.at[i];
            }
        });
        const float scale = inverse_root(sums.first, width, epsilon);
        const float along = sums.second * scale * scale / static_cast<float>(width);
        lanes.each(vectors, [&](int v) {
            const auto a = load<Whole>(from, v, width), t = load<Whole>(tangent, v, width),
                       w = load<Whole>(weight, v, width);
            Vector<T> result;
            for (int i = 0; i < per_vector<T>; ++i) result.at[i] = scale * (t.at[i] - a.at[i] * along) * w.at[i];
            if (tangent_weight != nullptr) {
                const auto direction = load<Whole>(tangent_weight, v, width);
                for (int i = 0; i < per_vector<T>; ++i) result.at[i] += scale * a.at[i] * direction.at[i];
            }
            store<Whole>(to, v, width, result);
        });
    }
};

/// gate_up: rows of 2 width numbers, gate first.
template <class T>
struct Swiglu {
    const T* gate_up;
    int width;
    T* y;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T *gate = gate_up + row * 2 * width, *up = gate + width;
        T* to = y + row * width;
        lanes.each(vectors_of<T>(width), [&](int v) {
            const auto g = load<Whole>(gate, v, width), u = load<Whole>(up, v, width);
            Vector<T> result;
            for (int i = 0; i < per_vector<T>; ++i) result.at[i] = g.at[i] * sigmoid(g.at[i]) * u.at[i];
            store<Whole>(to, v, width, result);
        });
    }
};

template <class T>
struct SwigluBackward {
    const T *gate_up, *gradient_y;
    int width;
    T* gradient_gate_up;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T *gate = gate_up + row * 2 * width, *up = gate + width, *gradient = gradient_y + row * width;
        T *gate_gradient = gradient_gate_up + row * 2 * width, *up_gradient = gate_gradient + width;
        lanes.each(vectors_of<T>(width), [&](int v) {
            const auto g = load<Whole>(gate, v, width), u = load<Whole>(up, v, width),
                       d = load<Whole>(gradient, v, width);
            Vector<T> of_gate, of_up;
            for (int i = 0; i < per_vector<T>; ++i) {
                const float s = sigmoid(g.at[i]);
                of_gate.at[i] = d.at[i] * u.at[i] * s * (1.0F + g.at[i] * (1.0F - s));
                of_up.at[i] = d.at[i] * g.at[i] * s;
            }
            store<Whole>(gate_gradient, v, width, of_gate);
            store<Whole>(up_gradient, v, width, of_up);
        });
    }
};

template <class T>
struct SwigluTangent {
    const T *gate_up, *tangent_gate_up;
    int width;
    T* tangent_y;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        const T *gate = gate_up + row * 2 * width, *up = gate + width;
        const T *gate_tangent = tangent_gate_up + row * 2 * width, *up_tangent = gate_tangent + width;
        T* to = tangent_y + row * width;
        lanes.each(vectors_of<T>(width), [&](int v) {
            const auto g = load<Whole>(gate, v, width), u = load<Whole>(up, v, width),
                       of_gate = load<Whole>(gate_tangent, v, width), of_up = load<Whole>(up_tangent, v, width);
            Vector<T> result;
            for (int i = 0; i < per_vector<T>; ++i) {
                const float s = sigmoid(g.at[i]);
                result.at[i] = of_gate.at[i] * u.at[i] * s * (1.0F + g.at[i] * (1.0F - s)) + of_up.at[i] * g.at[i] * s;
            }
            store<Whole>(to, v, width, result);
        });
    }
};

/// In place; rows `stride` numbers apart; cosine, sine (rows x head_dim / 2) in fp32. Whole: so are the halves of
/// heads.
template <class T>
struct Rotate {
    T* x;
    std::int64_t stride;
    int heads, half;
    const float *cosine, *sine;
    float direction;

    template <bool Whole, class Lanes>
    IDISTILL_ROW void operator()(const Lanes& lanes, std::int64_t row) const {
        T* heads_of_row = x + row * stride;
        const float *c = cosine + row * half, *s = sine + row * half;
        const int in_half = vectors_of<T>(half);
        lanes.each(heads * in_half, [&](int unit) {
            const int v = unit % in_half;
            T *first = heads_of_row + static_cast<std::int64_t>(unit / in_half) * 2 * half, *second = first + half;
            auto a = load<Whole>(first, v, half), b = load<Whole>(second, v, half);
            for (int part = 0; part < per_vector<T> / per_vector<float>; ++part) {
                const int angles = v * (per_vector<T> / per_vector<float>)+part;
                const auto cosines = load<Whole>(c, angles, half), sines = load<Whole>(s, angles, half);
                for (int i = 0; i < per_vector<float>; ++i) {
                    float &p = a.at[part * per_vector<float> + i], &q = b.at[part * per_vector<float> + i];
                    const float turned = p * cosines.at[i] - q * direction * sines.at[i];
                    q = q * cosines.at[i] + p * direction * sines.at[i];
                    p = turned;
                }
            }
            store<Whole>(first, v, half, a);
            store<Whole>(second, v, half, b);
        });
    }
};

}  // namespace idistill::model::rows
