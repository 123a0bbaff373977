#pragma once
// Dual numbers: what a pass computes, and its derivative along a direction in the weights. Every step of the gradient
// pass taken on them gives the gradient and the product of the Hessian with the direction. Of `Dual` arguments both
// members have the same shape.

#include <torch/types.h>

#include <cstdint>

#include "block.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::model {

struct Dual {
    torch::Tensor value, tangent;
};

// The steps of block.hpp.
Dual columns(const Dual& x, std::int64_t first, std::int64_t count);
Dual take_rows(const Dual& x, const RowSubset& rows);
Dual put_rows(const Dual& like, const Dual& x, const RowSubset& rows);
Dual copied(const Dual& x);
void add_(const Dual& x, const Dual& y);
/// x weight' + bias along `direction` of the weight (undefined: 0; biases have none).
Dual linear(const Dual& x, const Linear& layer, const torch::Tensor& direction);
Dual linear_backward(const Dual& gradient_y, const torch::Tensor& weight, const torch::Tensor& direction);
Dual attend(const ModelConfig& config, const QueryKeyValue<Dual>& heads, const PackedBatch& batch,
            const RowSubset& rows);
QueryKeyValue<Dual> attend_backward(const ModelConfig& config, const QueryKeyValue<Dual>& heads,
                                    const PackedBatch& batch, const RowSubset& rows, const Dual& gradient);
Dual qkv_backward(const DirectedBlock& block, const QueryKeyValue<Dual>& gradients, const RowSubset& rows);

Dual rms_norm(const Dual& x, const torch::Tensor& weight, double epsilon);
/// gradient_x += gradient of rms_norm at x.
void rms_norm_backward_(const Dual& gradient_x, const Dual& x, const torch::Tensor& weight, double epsilon,
                        const Dual& gradient_y);
Dual norm_heads(const Dual& x, const torch::Tensor& weight, double epsilon);
Dual norm_heads_backward(const Dual& raw, const torch::Tensor& weight, double epsilon, const Dual& gradient);

Dual swiglu(const Dual& gate_up);
Dual swiglu_backward(const Dual& gate_up, const Dual& gradient_y);

void rotate_(const Dual& x, std::int64_t head_dim, const Decoder::Rotation& rotation, bool forward = true);

}  // namespace idistill::model
