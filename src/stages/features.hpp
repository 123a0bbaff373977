#pragma once
// What the propagation knows of samples, and in which units it predicts: stages 4 and 5.

#include "run.hpp"

namespace idistill::stages {

/// Kernel features of these pool rows with their embeddings (n x e).
propagation::Features features_of(const Run& run, const std::vector<std::int64_t>& rows,
                                  const torch::Tensor& embedding);

/// (L x C + r) what is propagated beside the norm: influence and the curvature's factor.
torch::Tensor products_of(const LandmarkLabels& landmarks);

/// True with raw influence, which is fitted per unit of gradient norm and multiplied by the norm afterwards: both
/// propagate better than their product (Spearman 0.87 against 0.81 on a real pool).
bool raw(const Run& run);

}  // namespace idistill::stages
