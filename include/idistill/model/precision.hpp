#pragma once
// Numbers of 16 bits are for weights and activations; sums, losses, norms and sketches are in at least 32.

#include <torch/types.h>

namespace idistill::model {

/// fp32 for 16-bit numbers, otherwise the type itself.
torch::ScalarType accumulate_type(torch::ScalarType type);
/// The same device, in that type.
torch::TensorOptions accumulating(const torch::TensorOptions& options);
/// x in that type.
torch::Tensor widened(const torch::Tensor& x);

/// x y in the accumulate type, without rounding what is summed: matrices, and batches of them (b x n x k, b x k x m).
torch::Tensor wide_mm(const torch::Tensor& x, const torch::Tensor& y);
torch::Tensor wide_bmm(const torch::Tensor& x, const torch::Tensor& y);

/// into += x y of matrices or batches of them, in the type of `into`, which is that of y or wider; x is brought to that
/// of y.
void add_product_(const torch::Tensor& into, const torch::Tensor& x, const torch::Tensor& y);

}  // namespace idistill::model
