#pragma once
// Exact influence: gradient passes over samples, giving norms and either sketches or products with given directions (ID
// section 3).

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/influence/gradient/preconditioner.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// Rows of the samples, in their order, with the `a` of a preconditioner (1 without). Loss is the mean over label
/// tokens, evaluation mode. fp32, or fp64 for a decoder of that type.
struct GradientRows {
    torch::Tensor loss;      ///< (n)
    torch::Tensor norm;      ///< (n) exact |a*g_i| over the chosen layers
    torch::Tensor features;  ///< (n x k) sketches of a*g_i, or (n x C) products <a*g_i, u_c>; not normalised
};

/// Tokens of a sample that the gradient pass reads: up to its last predictor.
std::int64_t used_tokens(const data::Samples& samples, std::int64_t sample);

/// Samples of every micro-batch: at most `batch_tokens` used tokens, or one sample.
std::vector<std::vector<std::int64_t>> micro_batches(const data::Samples& samples, std::int64_t batch_tokens);

/// All samples (each with a label), in micro-batches of at most `batch_tokens` used tokens; the features are sketches.
/// With a preconditioner's scales the gradient of one layer is whole for a moment, for as few samples as the sketch
/// asks.
GradientRows gradient_sketches(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const GradientSketch& sketch, const data::Samples& samples, std::int64_t batch_tokens,
                               const Preconditioner& preconditioner = {});

struct SketchesAndProducts {
    GradientRows rows;       ///< as of gradient_sketches
    torch::Tensor products;  ///< (n) <g_i, u>
};
/// A direction (outputs x inputs) of one chosen layer, made when it is asked for: of all layers it would be as large as
/// the model.
using DirectionOfLayer = std::function<torch::Tensor(std::size_t layer)>;

/// Sketches of the gradients g_i as they are, and in the same pass their products with one direction.
SketchesAndProducts gradient_sketches_and_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                                                   const GradientSketch& sketch, const DirectionOfLayer& direction,
                                                   const data::Samples& samples, std::int64_t batch_tokens);

/// The features are products with `directions`, one tensor (C x outputs x inputs) a chosen layer.
GradientRows gradient_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const std::vector<torch::Tensor>& directions, const data::Samples& samples,
                               std::int64_t batch_tokens, const Preconditioner& preconditioner = {});

/// sums (one tensor (outputs x inputs) a chosen layer) += sum_i scale_i g_i over all samples.
void add_weighted_gradients(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                            const data::Samples& samples, const torch::Tensor& scale, std::int64_t batch_tokens,
                            std::vector<torch::Tensor>& sums);

}  // namespace idistill::influence
