#pragma once
// Exact influence of some samples, as stages 3 and 5 need it.

#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/gradient.hpp"
#include "run.hpp"

namespace idistill::stages {

struct ExactRows {
    torch::Tensor norm;       ///< (n) |g_i|
    torch::Tensor influence;  ///< (n x C); NaN where the gradient is zero or not finite
};

/// By sketches with the targets' sketches, or without a sketch by contraction with their directions.
ExactRows exact_rows(const Run& run, const TargetLabels& targets, const influence::GradientSketch* sketch,
                     const data::Samples& samples);

/// influence (n x C) as a row of the state file, which has room for the columns of dropped targets: those are NaN, at
/// the end.
torch::Tensor widen(const torch::Tensor& influence, std::int64_t columns);

/// The embedding that the settings name.
std::unique_ptr<embedding::Embedding> embedding_of(const Run& run);

/// Rows of the range that the plan did not quarantine.
std::vector<std::int64_t> eligible_rows(const config::Plan& plan, const data::RowRange& range);

}  // namespace idistill::stages
