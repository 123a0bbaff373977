#pragma once
// What one row costs: the fused element-wise steps of kernels.hpp as functions of a row and of the lanes that share it.
// A GPU's lanes are threads; on a host they are taken one after the other (tests). Numbers are stored in fp32 or
// bfloat16, all arithmetic is fp32.
//
// Lanes have
//   each(n, body)              body(i) once for every i < n, by any lane
//   reduce(n, combine, body)   Two: body(state, i) for every i < n, each lane from combine.neutral(), and the lanes'
//   states
//                              combined; all lanes get it, and none goes on before all are done
// Of combine, first(a, b) is associative and symmetric to the bit; aligned(state, first) is a state when the first
// number of all is known, after which second numbers are added. Which lane takes what, and in which order states are
// combined, follows from n and the number of lanes alone: the same bits for any number of rows.

#include <float.h>
#include <math.h>

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define IDISTILL_ROW __device__ __forceinline__
#else
#define IDISTILL_ROW inline
#endif

namespace idistill::model::rows {

// --- numbers ---------------------------------------------------------------------------------------------------------

struct Bf16 {
    std::uint16_t bits;
};

IDISTILL_ROW float float_of(std::uint32_t bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}
IDISTILL_ROW std::uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

IDISTILL_ROW float widen(float x) { return x; }
IDISTILL_ROW float widen(Bf16 x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16U); }

/// Two numbers as bfloat16 in one word, the first in its lower half, rounded to the nearest, ties to even.
IDISTILL_ROW std::uint32_t narrowed_pair(float first, float second) {
#ifdef __CUDA_ARCH__
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    const auto one = [](float x) {
        const auto bits = bits_of(x);
        return x != x ? 0x7fffU : (bits + 0x7fffU + ((bits >> 16U) & 1U)) >> 16U;
    };
    return one(first) | one(second) << 16U;
#endif
}

template <class T>
IDISTILL_ROW T narrow(float x);
template <>
IDISTILL_ROW float narrow<float>(float x) {
    return x;
}
template <>
IDISTILL_ROW Bf16 narrow<Bf16>(float x) {
    return {static_cast<std::uint16_t>(narrowed_pair(x, 0.0F))};
}

/// 1 / x; 0 above 2^126.
IDISTILL_ROW float reciprocal(float x) {
#ifdef __CUDA_ARCH__
    return __fdividef(1.0F, x);
#else
    return 1.0F / x;
#endif
}
IDISTILL_ROW float sigmoid(float x) { return reciprocal(1.0F + expf(-x)); }

// --- 16 bytes at a time ----------------------------------------------------------------------------------------------

template <class T>
inline constexpr int per_vector = 16 / static_cast<int>(sizeof(T));

template <class T>
IDISTILL_ROW int vectors_of(int width) {
    return (width + per_vector<T> - 1) / per_vector<T>;
}

template <class T>
struct Vector {
    float at[per_vector<T>];
};

#ifdef __CUDA_ARCH__
using Words = uint4;
#else
struct Words {
    std::uint32_t x, y, z, w;
};
#endif

IDISTILL_ROW void unpack(const Words& words, Vector<float>& v) {
    v = {{float_of(words.x), float_of(words.y), float_of(words.z), float_of(words.w)}};
}
IDISTILL_ROW void unpack(const Words& words, Vector<Bf16>& v) {
    constexpr std::uint32_t upper = 0xffff0000U;
    v = {{float_of(words.x << 16U), float_of(words.x & upper), float_of(words.y << 16U), float_of(words.y & upper),
          float_of(words.z << 16U), float_of(words.z & upper), float_of(words.w << 16U), float_of(words.w & upper)}};
}
IDISTILL_ROW Words packed(const Vector<float>& v) {
    return {bits_of(v.at[0]), bits_of(v.at[1]), bits_of(v.at[2]), bits_of(v.at[3])};
}
IDISTILL_ROW Words packed(const Vector<Bf16>& v) {
    return {narrowed_pair(v.at[0], v.at[1]), narrowed_pair(v.at[2], v.at[3]), narrowed_pair(v.at[4], v.at[5]),
            narrowed_pair(v.at[6], v.at[7])};
}

/// Numbers [v per_vector, (v + 1) per_vector) of `width`; zeros behind the end. Whole: all are there, at an address
/// that is a multiple of 16.
template <bool Whole, class T>
IDISTILL_ROW Vector<T> load(const T* x, int v, int width) {
    constexpr int n = per_vector<T>;
    Vector<T> result;
    if constexpr (Whole) {
        Words words;
#ifdef __CUDA_ARCH__
        words = reinterpret_cast<const Words*>(x)[v];
#else
        std::memcpy(&words, x + static_cast<std::ptrdiff_t>(v) * n, sizeof words);
#endif
        unpack(words, result);
    } else {
        for (int i = 0; i < n; ++i) result.at[i] = v * n + i < width ? widen(x[v * n + i]) : 0.0F;
    }
    return result;
}

template <bool Whole, class T>
IDISTILL_ROW void store(T* x, int v, int width, const Vector<T>& values) {
    constexpr int n = per_vector<T>;
    if constexpr (Whole) {
        const Words words = packed(values);
#ifdef __CUDA_ARCH__
        reinterpret_cast<Words*>(x)[v] = words;
#else
        std::memcpy(x + static_cast<std::ptrdiff_t>(v) * n, &words, sizeof words);
#endif
    } else {
        for (int i = 0; i < n; ++i)
            if (v * n + i < width) x[v * n + i] = narrow<T>(values.at[i]);
    }
}

// --- sums over a row -------------------------------------------------------------------------------------------------

struct Two {
    float first, second;
};

/// Two sums.
struct Sums {
    IDISTILL_ROW Two neutral() const { return {0.0F, 0.0F}; }
    IDISTILL_ROW float first(float a, float b) const { return a + b; }
    IDISTILL_ROW Two aligned(Two own, float first) const { return {first, own.second}; }
};

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

IDISTILL_ROW float inverse_root(float squares, int width, float epsilon) {
    return 1.0F / sqrtf(squares / static_cast<float>(width) + epsilon);
}

// --- the steps, each a row at a time ---------------------------------------------------------------------------------
// Rows are contiguous and `width` long, unless said otherwise; formulas as in kernels_cpu.hpp.

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

// --- count sketches and their spectra --------------------------------------------------------------------------------

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

/// How many lanes share a row of so many vectors: one warp, or a block that leaves some to each.
constexpr int lanes_for(std::int64_t vectors) {
    if (vectors <= 64) return 32;
    if (vectors > 2048) return 1024;
    return vectors > 256 ? 256 : static_cast<int>((vectors + 31) / 32 * 32);
}

}  // namespace idistill::model::rows
