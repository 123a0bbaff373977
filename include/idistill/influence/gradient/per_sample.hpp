#pragma once
// Per-sample quantities of one tapped layer: gradients, squared norms, contractions with given directions.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// Calls body(sample, first row, rows) for every sample of a tap.
template <class Body>
void for_each_sample(const model::LayerTap& tap, Body&& body) {
    for (std::size_t i = 0; i + 1 < tap.offsets.size(); ++i)
        body(static_cast<std::int64_t>(i), tap.offsets[i], tap.offsets[i + 1] - tap.offsets[i]);
}

/// (n x m) inner products of `rows` (n x k) with `others` (m x k): fp32 sums of few numbers, added in fp64. One fp32
/// sum over a gradient of 26.5 million numbers is wrong by up to 2.6e-3 of an influence.
torch::Tensor inner_products(const torch::Tensor& rows, const torch::Tensor& others);

/// Gradient (outputs x inputs) of the sample whose rows are [first, first + rows).
torch::Tensor sample_gradient(const model::LayerTap& tap, std::int64_t first, std::int64_t rows);

/// Bytes of one sample's.
std::int64_t gradient_bytes(const model::LayerTap& tap);

/// Changes whole gradients (outputs x inputs, or of several samples m x outputs x inputs) of one layer in place.
using Change = std::function<void(std::size_t layer, const torch::Tensor& gradient)>;

/// Whole gradients of a tap's samples, `count` at a time, or of padded ones as many as fit: body(first sample,
/// gradients (m x outputs x inputs)), each after `change`, if there is one.
void for_each_dense(const model::LayerTap& tap, const Change& change, std::int64_t count,
                    const std::function<void(std::int64_t, const torch::Tensor&)>& body);

/// squared (m, fp64) += |G_i|^2 of whole gradients (m x outputs x inputs).
void accumulate_dense_norms(const torch::Tensor& gradients, torch::Tensor squared);

/// squared (n, fp64) += |G_i|^2 of this layer; by the Gram matrices of inputs and output gradients where that is
/// cheaper than forming G_i.
void accumulate_squared_norms(const model::LayerTap& tap, torch::Tensor& squared);

/// The same, and products (n x C) += <G_i, U_c> for the directions U of this layer (C x outputs x inputs): from the
/// rows as sum_r y_r' U x_r, or from G_i where forming it once is cheaper than C forward-sized products.
void accumulate_products_and_norms(const model::LayerTap& tap, const torch::Tensor& directions, torch::Tensor& products,
                                   torch::Tensor& squared);

/// products (n x C) += <H_i, U_c> and squared (n, fp64) += |H_i|^2 of H_i = change(G_i), which is formed once.
void accumulate_changed_products_and_norms(const model::LayerTap& tap, const Change& change,
                                           const torch::Tensor& directions, torch::Tensor& products,
                                           torch::Tensor& squared);

}  // namespace idistill::influence
