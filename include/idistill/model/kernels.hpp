#pragma once
// The element-wise steps of a decoder, each with its gradient and tangent: one fused pass on a CPU in fp32, and on a
// GPU in fp32 and bf16 where the plugin of CUDA kernels is beside the program; plain tensor operations on any other
// device or dtype. Results are rounded to the dtype of their tensors; what is in between, losses, scales, angles and
// sums are in at least fp32. Shapes: rows are tokens; all arguments contiguous unless said otherwise.

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace idistill::model {

/// y = x / sqrt(mean(x^2) + epsilon) * weight over the last dimension.
void rms_norm(const torch::Tensor& y, const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
/// gradient_x += gradient of rms_norm at x.
void rms_norm_backward_(torch::Tensor& gradient_x, const torch::Tensor& x, const torch::Tensor& weight, double epsilon,
                        const torch::Tensor& gradient_y);
/// tangent_y = tangent of rms_norm at x along tangent_x and, if defined, tangent_weight.
void rms_norm_tangent(const torch::Tensor& tangent_y, const torch::Tensor& x, const torch::Tensor& weight,
                      double epsilon, const torch::Tensor& tangent_x, const torch::Tensor& tangent_weight);

/// y = silu(gate) * up; gate_up (rows x 2F), y (rows x F).
void swiglu(const torch::Tensor& y, const torch::Tensor& gate_up);
torch::Tensor swiglu(const torch::Tensor& gate_up);
torch::Tensor swiglu_backward(const torch::Tensor& gate_up, const torch::Tensor& gradient_y);
void swiglu_tangent(const torch::Tensor& tangent_y, const torch::Tensor& gate_up, const torch::Tensor& tangent_gate_up);

/// Rotary embedding in place on x (rows x heads*head_dim; rows may be strided), cosine and sine (rows x head_dim/2).
/// `forward` false: the transposed rotation, for gradients.
void rotate_(const torch::Tensor& x, std::int64_t head_dim, const torch::Tensor& cosine, const torch::Tensor& sine,
             bool forward = true);

/// scores (batch x rows x keys) -> softmax(scale * scores) over the first valid[row / group] keys, zeros behind, in
/// place.
void causal_softmax_(torch::Tensor& scores, std::int64_t group, const std::int64_t* valid, double scale);
/// The same where samples have the heads of a sample side by side: a query i of sample s sees the first valid[s][i]
/// keys, or none; valid (samples x rows / group) int64 on the device of scores, whose batch is a multiple of samples.
void causal_softmax_(torch::Tensor& scores, std::int64_t group, const torch::Tensor& valid, double scale);
/// values <- scale * probabilities o (values - <probabilities, values>): the softmax' tangent and gradient, in place.
void softmax_jacobian_(torch::Tensor& values, const torch::Tensor& probabilities, double scale);

/// logits (rows x V) <- scale o (softmax - onehot(labels)), in place; returns the losses (rows), in at least fp32 as
/// scale is.
torch::Tensor cross_entropy_(torch::Tensor& logits, const torch::Tensor& labels, const torch::Tensor& scale);

/// Columns by the bucket they go to, ascending in each: bucket b has order[e] for start[b] <= e < start[b + 1], as ~i
/// where a column i counts negative. int32.
struct Buckets {
    torch::Tensor order;  ///< (width)
    torch::Tensor start;  ///< (buckets + 1)
};
/// Of bucket (width) int64, below `count`, and sign (width), on their device.
Buckets by_bucket(const torch::Tensor& bucket, const torch::Tensor& sign, std::int64_t count);
/// (rows x buckets), in at least fp32: sums of the columns of x (rows x width; rows may be strided), on their device.
torch::Tensor bucket_sums(const torch::Tensor& x, const Buckets& buckets);
/// Sums (n x width) of a o b (rows x width, complex) over the rows [offsets[i], offsets[i + 1]), which hold every row
/// once; offsets (n + 1) int32 on their device.
torch::Tensor product_sums(const torch::Tensor& a, const torch::Tensor& b, const torch::Tensor& offsets);

}  // namespace idistill::model
