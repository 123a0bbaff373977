#pragma once
// Element-wise kernels over contiguous float32 rows, one pass over memory each. Compiled for the processor
// (IDISTILL_ARCH).

#include <cstdint>

namespace idistill::model::cpu {

void rms_norm(const float* x, const float* weight, float epsilon, std::int64_t rows, std::int64_t width, float* y);
/// gradient_x += d rms_norm / dx applied to gradient_y.
void rms_norm_backward(const float* x, const float* weight, float epsilon, const float* gradient_y, std::int64_t rows,
                       std::int64_t width, float* gradient_x);
/// tangent_weight may be null (no direction on the weight).
void rms_norm_tangent(const float* x, const float* weight, float epsilon, const float* tangent_x,
                      const float* tangent_weight, std::int64_t rows, std::int64_t width, float* tangent_y);

/// gate_up: (rows x 2 width), gate first. y = silu(gate) * up.
void swiglu(const float* gate_up, std::int64_t rows, std::int64_t width, float* y);
void swiglu_backward(const float* gate_up, const float* gradient_y, std::int64_t rows, std::int64_t width,
                     float* gradient_gate_up);
void swiglu_tangent(const float* gate_up, const float* tangent_gate_up, std::int64_t rows, std::int64_t width,
                    float* tangent_y);

/// In place rotary embedding of `heads` heads a row; rows are `stride` floats apart; cosine, sine: (rows x head_dim /
/// 2). direction -1 rotates back (the transpose).
void rotate(float* x, std::int64_t rows, std::int64_t stride, std::int64_t heads, std::int64_t head_dim,
            const float* cosine, const float* sine, float direction);

/// In place softmax(scale * scores) over the first valid[row / group] entries of each row; zeros behind. `batch`
/// matrices.
void causal_softmax(float* scores, std::int64_t batch, std::int64_t rows, std::int64_t width, std::int64_t group,
                    const std::int64_t* valid, float scale);
/// In place: values <- scale * probabilities o (values - <probabilities, values>): tangent and, by symmetry, gradient.
void softmax_jacobian(const float* probabilities, float* values, std::int64_t rows, std::int64_t width, float scale);

/// Per row: loss = logsumexp(logits) - logits[label]; logits <- scale[row] * (softmax - onehot).
void cross_entropy(float* logits, std::int64_t rows, std::int64_t width, const std::int64_t* labels, const float* scale,
                   float* loss);

}  // namespace idistill::model::cpu
