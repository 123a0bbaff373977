#pragma once
// Stage 2's places (of the plan's target units: targets, then the samples of --contrast): their samples and what counts
// of their gradients. Shared by what makes sketches, whole gradients and the curvature of them.

#include "run.hpp"
#include "units.hpp"

namespace idistill::stages {

/// Samples at places of targets, or at places of the contrast.
data::Samples read_labelled(const Run& run, const std::vector<std::int64_t>& places);

/// Steps go along the pool's gradients times the optimizer's factors; of the targets the gradients themselves count.
const influence::Preconditioner& factors_of(const Run& run, std::int64_t place);

Work labelled_work(const Run& run, const data::WorkUnit& unit);

/// How many of the places each task has; last the contrast.
std::vector<std::int64_t> members_of(const config::Plan& plan, const std::vector<std::int64_t>& places);

/// Scale of each usable place's gradient in the mean of its task: 1/(usable ones of the task), over its norm with
/// cosine, and in the contrast, of which the direction alone counts; 0 for the others.
torch::Tensor mean_scales(const Run& run, const std::vector<std::int64_t>& usable, const torch::Tensor& norms);

/// Takes the parts along `common` (pieces x width) out of the rows (C + r x pieces x width); products are added in
/// fp64. Says of how many of the first C, the targets, nothing is left.
void take_out_contrast(const Run& run, const torch::Tensor& common, std::int64_t columns, const torch::Tensor& rows);

/// Part of one chosen layer (outputs x inputs) in what the optimizer's next step adds whatever the gradient is: b.
torch::Tensor step_constant(const Run& run, std::size_t layer);

/// With contraction: mean gradient of every task, and behind them `factor` (r x numbers of a direction; undefined:
/// none), without the part that --contrast takes out; a tensor (C + r x outputs x inputs) a layer. The tasks' are sums
/// of units, claimed by any rank and added in their order.
std::vector<torch::Tensor> task_directions(const Run& run, const std::vector<std::int64_t>& usable,
                                           const torch::Tensor& norms, const torch::Tensor& factor);

}  // namespace idistill::stages
