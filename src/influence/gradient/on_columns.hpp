#pragma once
// Influence of samples on the columns that were made of the targets, and what people are told of these.

#include <torch/types.h>

#include <cstdint>

#include "gradient_model.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "targets.hpp"

namespace idistill::influence {

/// Says what was left out, and how far the sketch errs.
void say_columns(const Labelling& run, const Columns& columns);

/// Influence of samples on the columns: by sketches, or without a sketch by contraction with their directions; of what
/// the optimizer makes of gradients. Features are products with the columns, not normalised.
GradientRows rows_on_columns(const GradientModel& model, const GradientColumns& columns, const data::Samples& samples,
                             std::int64_t batch_tokens);

/// (n x 1) whether a gradient is finite and not zero: another has no direction, its influence is NaN, which quarantines
/// the sample.
torch::Tensor has_direction(const torch::Tensor& norm);

}  // namespace idistill::influence
