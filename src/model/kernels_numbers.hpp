#pragma once
// The numbers of the fused kernels, one at a time and 16 bytes at a time: stored in fp32 or bfloat16, computed with in
// fp32, on a GPU or on a host.

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define IDISTILL_ROW __device__ __forceinline__
#else
#define IDISTILL_ROW inline
#endif

namespace idistill::model::rows {

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

}  // namespace idistill::model::rows
