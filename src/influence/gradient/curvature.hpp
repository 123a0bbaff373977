#pragma once
// Curvature of the target loss.

#include "targets.hpp"

namespace idistill::influence {

/// H_T ~ sum_j mu_j v_j v_j' of the mean target loss: that of the mean of the columns, so with cosine of losses over
/// their gradients' norms. --contrast changes the targets' gradients, not their losses: H_T is the same with it.
struct TargetCurvature {
    std::vector<double> value;  ///< (r) mu, in descending size
    torch::Tensor vectors;      ///< (r x numbers of a direction in the state): sqrt|mu_j| v_j
    std::vector<double> step;   ///< (r) products of these with the optimizer's b; empty without
};

/// By the Lanczos iteration over exact Hessian-vector products, from a seeded start. Collective. The units of a product
/// are shared out in rounds, one a rank, and added in their order, whatever the number of ranks: of U units of d
/// numbers a rank of n receives (U - U / n) d / n, its own slice of those of others, and d (n - 1) / n, the other
/// slices of the sum. A finished product is a unit of the state, so that a restart repeats none. `norms` (places) of
/// the gradients. Throws Error(bad_input) for a product that is not finite.
TargetCurvature target_curvature(const Labelling& run, const std::vector<std::int64_t>& kept,
                                 const torch::Tensor& norms);

}  // namespace idistill::influence
