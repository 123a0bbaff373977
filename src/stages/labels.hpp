#pragma once
// Exact influence of some samples, as stages 3 and 5 need it, and how labels lie in the state.

#include "run.hpp"

namespace idistill::stages {

/// Where the state keeps sums of the gradients of targets and of the contrast: the sum of unit i of the plan's
/// direction units fills the rows [i * pieces, (i + 1) * pieces), its layers one after the other, zeros behind them.
struct DirectionRows {
    std::int64_t pieces = 1;
    std::int64_t width = 0;  ///< of a row
    std::vector<data::WorkUnit> units;
};
DirectionRows direction_rows_of(const config::Plan& plan);

/// Views of the chosen layers in `flat` (... x numbers of a direction): (... x outputs x inputs) each.
std::vector<torch::Tensor> by_layer(const Run& run, const torch::Tensor& flat);

bool cosine(const Run& run);  ///< whether gradients count by their direction alone

struct ExactRows {
    torch::Tensor norm;       ///< (n) |a*g_i|
    torch::Tensor influence;  ///< (n x C + r), F behind the influences; NaN where the gradient is zero or not finite
};

/// By sketches with the targets' sketches, or without a sketch by contraction with their directions; of gradients
/// multiplied by the optimizer's factors.
ExactRows exact_rows(const Run& run, const TargetLabels& targets, const data::Samples& samples);

/// (n x e) of rows of the pool: the embeddings at these places of the plan side by side, computed or read.
torch::Tensor embed(const Run& run, const std::vector<std::int64_t>& rows, const std::vector<std::size_t>& embeddings);

/// influence (n x C + r) as a row of the state file, which has room for the columns of dropped targets: those are NaN,
/// at the end.
torch::Tensor widen(const torch::Tensor& influence, std::int64_t columns);

/// Rows of the range that the plan did not quarantine.
std::vector<std::int64_t> eligible_rows(const config::Plan& plan, const data::RowRange& range);

}  // namespace idistill::stages
