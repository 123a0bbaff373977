#pragma once
// Exact influence: gradient passes over samples, giving norms and either sketches or products with given directions (ID
// section 3).

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/influence/sketch.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// Rows of the samples, in their order; loss is the mean over label tokens, evaluation mode. fp32, or fp64 for a
/// decoder of that type.
struct GradientRows {
    torch::Tensor loss;      ///< (n)
    torch::Tensor norm;      ///< (n) exact |g_i| over the chosen layers
    torch::Tensor features;  ///< (n x k) sketches of g_i, or (n x C) products <g_i, u_c>; not normalised
};

/// Tokens of a sample that the gradient pass reads: up to its last predictor.
std::int64_t used_tokens(const data::Samples& samples, std::int64_t sample);

/// All samples (each with a label), in micro-batches of at most `batch_tokens` used tokens; the features are sketches.
GradientRows gradient_sketches(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const GradientSketch& sketch, const data::Samples& samples, std::int64_t batch_tokens);

/// The features are products with `directions`, one tensor (C x outputs x inputs) a chosen layer.
GradientRows gradient_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const std::vector<torch::Tensor>& directions, const data::Samples& samples,
                               std::int64_t batch_tokens);

/// sums (one tensor (outputs x inputs) a chosen layer) += sum_i scale_i g_i over all samples.
void add_weighted_gradients(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                            const data::Samples& samples, const torch::Tensor& scale, std::int64_t batch_tokens,
                            std::vector<torch::Tensor>& sums);

}  // namespace idistill::influence
