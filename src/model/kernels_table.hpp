#pragma once
// The functions of CudaKernels in terms of the steps on rows and a Launcher, which runs a step on all rows: the
// plugin's, and the tests' on the host.

#include "kernels_cuda.hpp"
#include "kernels_layers.hpp"
#include "kernels_sketches.hpp"
#include "kernels_softmax.hpp"

namespace idistill::model {

/// Launcher has
///   rows(step, whole, rows, vectors of a row, stream)
///   bucket_sums(const T* x, rows, stride, width, order, start, buckets, sketches, stream)
///   product_sums(a, b, offsets, segments, width, sums, stream)
/// each returning a cudaError_t, and `invalid`, that of arguments out of range.
template <class Launcher>
struct KernelFunctions {
    template <class Body>
    static int of_storage(Storage storage, Body&& body) {
        return storage == Storage::bf16 ? body(rows::Bf16{}) : body(float{});
    }
    /// Whether vectors of 16 bytes fit everywhere: rows (or their parts) of `width` numbers of T at these addresses.
    template <class T, class... Pointers>
    static bool whole(std::int64_t width, Pointers... pointers) {
        const auto aligned = [](const void* x) { return reinterpret_cast<std::uintptr_t>(x) % 16 == 0; };
        return width % rows::per_vector<T> == 0 && (aligned(pointers) && ...);
    }
    static bool in_range(std::int64_t rows, std::int64_t width) {
        constexpr std::int64_t most = 0x7fffffff;
        return rows >= 0 && rows <= most && width >= 0 && 2 * width < most;
    }
    /// Runs a step on rows of `width` numbers.
    template <class T, class Step>
    static int run(const Step& step, bool whole, std::int64_t rows, std::int64_t width, void* stream) {
        if (rows == 0 || width == 0) return 0;
        if (!in_range(rows, width)) return Launcher::invalid;
        return Launcher::rows(step, whole, rows, (width + rows::per_vector<T> - 1) / rows::per_vector<T>, stream);
    }

    static int rms_norm(Storage storage, const void* x, const void* weight, float epsilon, std::int64_t rows,
                        std::int64_t width, void* y, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::RmsNorm<T> step{static_cast<const T*>(x), static_cast<const T*>(weight), epsilon,
                                        static_cast<int>(width), static_cast<T*>(y)};
            return run<T>(step, whole<T>(width, x, weight, y), rows, width, stream);
        });
    }

    static int rms_norm_backward(Storage storage, const void* x, const void* weight, float epsilon,
                                 const void* gradient_y, std::int64_t rows, std::int64_t width, void* gradient_x,
                                 void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::RmsNormBackward<T> step{
                static_cast<const T*>(x),          static_cast<const T*>(weight), epsilon,
                static_cast<const T*>(gradient_y), static_cast<int>(width),       static_cast<T*>(gradient_x)};
            return run<T>(step, whole<T>(width, x, weight, gradient_y, gradient_x), rows, width, stream);
        });
    }

    static int rms_norm_tangent(Storage storage, const void* x, const void* weight, float epsilon,
                                const void* tangent_x, const void* tangent_weight, std::int64_t rows,
                                std::int64_t width, void* tangent_y, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::RmsNormTangent<T> step{
                static_cast<const T*>(x),         static_cast<const T*>(weight),         epsilon,
                static_cast<const T*>(tangent_x), static_cast<const T*>(tangent_weight), static_cast<int>(width),
                static_cast<T*>(tangent_y)};
            return run<T>(step, whole<T>(width, x, weight, tangent_x, tangent_weight, tangent_y), rows, width, stream);
        });
    }

    static int swiglu(Storage storage, const void* gate_up, std::int64_t rows, std::int64_t width, void* y,
                      void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::Swiglu<T> step{static_cast<const T*>(gate_up), static_cast<int>(width), static_cast<T*>(y)};
            return run<T>(step, whole<T>(width, gate_up, y), rows, width, stream);
        });
    }

    /// SwigluBackward or SwigluTangent, of the gradient of y or the tangent of gate_up.
    template <template <class> class Step>
    static int swiglu_derivative(Storage storage, const void* gate_up, const void* direction, std::int64_t rows,
                                 std::int64_t width, void* result, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const Step<T> step{static_cast<const T*>(gate_up), static_cast<const T*>(direction),
                               static_cast<int>(width), static_cast<T*>(result)};
            return run<T>(step, whole<T>(width, gate_up, direction, result), rows, width, stream);
        });
    }

    static int rotate(Storage storage, void* x, std::int64_t rows, std::int64_t stride, std::int64_t heads,
                      std::int64_t head_dim, const float* cosine, const float* sine, float direction, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const auto half = head_dim / 2;
            if (heads * head_dim > stride && rows > 1) return Launcher::invalid;
            const rows::Rotate<T> step{
                static_cast<T*>(x), stride, static_cast<int>(heads), static_cast<int>(half), cosine, sine, direction};
            const bool fits = whole<T>(half, x, cosine, sine) && stride % rows::per_vector<T> == 0;
            return run<T>(step, fits, rows, heads * half, stream);
        });
    }

    static int causal_softmax(Storage storage, void* scores, std::int64_t batch, std::int64_t rows, std::int64_t width,
                              std::int64_t group, std::int64_t sharing, const std::int64_t* valid, float scale,
                              void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            if (!in_range(batch, rows) || !in_range(group, sharing)) return Launcher::invalid;
            const rows::CausalSoftmax<T> step{static_cast<T*>(scores),
                                              static_cast<std::uint32_t>(rows),
                                              static_cast<int>(width),
                                              static_cast<std::uint32_t>(group),
                                              static_cast<std::uint32_t>(sharing),
                                              valid,
                                              scale};
            return run<T>(step, whole<T>(width, scores), batch * rows, width, stream);
        });
    }

    static int softmax_jacobian(Storage storage, const void* probabilities, void* values, std::int64_t rows,
                                std::int64_t width, float scale, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::SoftmaxJacobian<T> step{static_cast<const T*>(probabilities), static_cast<T*>(values),
                                                static_cast<int>(width), scale};
            return run<T>(step, whole<T>(width, probabilities, values), rows, width, stream);
        });
    }

    static int cross_entropy(Storage storage, void* logits, std::int64_t rows, std::int64_t width,
                             const std::int64_t* labels, const float* scale, float* loss, void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            const rows::CrossEntropy<T> step{static_cast<T*>(logits), static_cast<int>(width), labels, scale, loss};
            return run<T>(step, whole<T>(width, logits), rows, width, stream);
        });
    }

    static int bucket_sums(Storage storage, const void* x, std::int64_t rows, std::int64_t stride, std::int64_t width,
                           const std::int32_t* order, const std::int32_t* start, std::int64_t buckets, float* sketches,
                           void* stream) {
        return of_storage(storage, [&](auto number) {
            using T = decltype(number);
            if (rows == 0 || buckets == 0) return 0;
            if (!in_range(rows, width) || !in_range(rows, buckets)) return Launcher::invalid;
            return Launcher::bucket_sums(static_cast<const T*>(x), rows, stride, static_cast<int>(width), order, start,
                                         static_cast<int>(buckets), sketches, stream);
        });
    }

    static int product_sums(const float* a, const float* b, const std::int32_t* offsets, std::int64_t segments,
                            std::int64_t width, float* sums, void* stream) {
        if (segments == 0 || width == 0) return 0;
        if (!in_range(segments, width)) return Launcher::invalid;
        using rows::Complex;
        return Launcher::product_sums(reinterpret_cast<const Complex*>(a), reinterpret_cast<const Complex*>(b), offsets,
                                      segments, width, reinterpret_cast<Complex*>(sums), stream);
    }

    static constexpr CudaKernels table(int (*set_device)(int), const char* (*message)(int)) {
        return {cuda_kernels_version,
                set_device,
                message,
                &rms_norm,
                &rms_norm_backward,
                &rms_norm_tangent,
                &swiglu,
                &swiglu_derivative<rows::SwigluBackward>,
                &swiglu_derivative<rows::SwigluTangent>,
                &rotate,
                &causal_softmax,
                &softmax_jacobian,
                &cross_entropy,
                &bucket_sums,
                &product_sums};
    }
};

}  // namespace idistill::model
