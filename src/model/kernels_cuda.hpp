#pragma once
// The plugin libidistill_cuda.so: the element-wise steps of kernels.hpp and the sums of count sketches as fused CUDA
// kernels. Plain pointers of device memory and sizes cross its border, so that it needs no LibTorch, and a program that
// never meets a GPU does not load it.

#include <cstdint>

namespace idistill::model {

/// How numbers are stored; all arithmetic is fp32.
enum class Storage : int { fp32, bf16 };

/// Every function enqueues on `stream` (null: the default one) and returns a cudaError_t, 0 for success. Rows are
/// contiguous unless a stride (in numbers) is given; a width is below 2^31. Semantics as in kernels_cpu.hpp.
struct CudaKernels {
    int version;  ///< cuda_kernels_version of what it was built from
    int (*set_device)(int device);
    const char* (*message)(int error);

    int (*rms_norm)(Storage storage, const void* x, const void* weight, float epsilon, std::int64_t rows,
                    std::int64_t width, void* y, void* stream);
    int (*rms_norm_backward)(Storage storage, const void* x, const void* weight, float epsilon, const void* gradient_y,
                             std::int64_t rows, std::int64_t width, void* gradient_x, void* stream);
    int (*rms_norm_tangent)(Storage storage, const void* x, const void* weight, float epsilon, const void* tangent_x,
                            const void* tangent_weight, std::int64_t rows, std::int64_t width, void* tangent_y,
                            void* stream);
    int (*swiglu)(Storage storage, const void* gate_up, std::int64_t rows, std::int64_t width, void* y, void* stream);
    int (*swiglu_backward)(Storage storage, const void* gate_up, const void* gradient_y, std::int64_t rows,
                           std::int64_t width, void* gradient_gate_up, void* stream);
    int (*swiglu_tangent)(Storage storage, const void* gate_up, const void* tangent_gate_up, std::int64_t rows,
                          std::int64_t width, void* tangent_y, void* stream);
    /// cosine, sine: fp32.
    int (*rotate)(Storage storage, void* x, std::int64_t rows, std::int64_t stride, std::int64_t heads,
                  std::int64_t head_dim, const float* cosine, const float* sine, float direction, void* stream);
    /// valid: (batch / sharing x rows / group), or with sharing 0 (rows / group) for all matrices; may hold zeros.
    int (*causal_softmax)(Storage storage, void* scores, std::int64_t batch, std::int64_t rows, std::int64_t width,
                          std::int64_t group, std::int64_t sharing, const std::int64_t* valid, float scale,
                          void* stream);
    int (*softmax_jacobian)(Storage storage, const void* probabilities, void* values, std::int64_t rows,
                            std::int64_t width, float scale, void* stream);
    int (*cross_entropy)(Storage storage, void* logits, std::int64_t rows, std::int64_t width,
                         const std::int64_t* labels, const float* scale, float* loss, void* stream);

    /// sketches (rows x buckets, fp32): the sums of x's columns order[e] for e in [start[b], start[b + 1]); ~i in place
    /// of a column i counts negative. Rows of x are `stride` apart. cuda_does_not_fit where they are wider than shared
    /// memory holds 4 bytes a number: 41,728 (sm_80), 58,112 (sm_90), 25,344 (sm_86, sm_89, sm_120).
    int (*bucket_sums)(Storage storage, const void* x, std::int64_t rows, std::int64_t stride, std::int64_t width,
                       const std::int32_t* order, const std::int32_t* start, std::int64_t buckets, float* sketches,
                       void* stream);
    /// sums (segments x width, complex) of a o b (complex) over rows [offsets[s], offsets[s + 1]).
    int (*product_sums)(const float* a, const float* b, const std::int32_t* offsets, std::int64_t segments,
                        std::int64_t width, float* sums, void* stream);
};

/// Grows with every change of the table above.
inline constexpr int cuda_kernels_version = 2;

/// No cudaError_t: what a function gives, having done nothing, where this GPU is too small for it.
inline constexpr int cuda_does_not_fit = -1;

/// Of the plugin beside the program; null where there is none. Throws where there is one that cannot be used.
const CudaKernels* cuda_kernels();

}  // namespace idistill::model
