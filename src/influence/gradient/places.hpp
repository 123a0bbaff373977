#pragma once
// Places of the targets and the contrast: their samples, what counts of their gradients, and directions as the state
// keeps them.

#include "targets.hpp"

namespace idistill::influence {

/// Samples at places of targets, or at places of the contrast.
data::Samples read_places(const Labelling& run, const std::vector<std::int64_t>& places);

/// Those of the places that are in a unit; both ascending.
std::vector<std::int64_t> places_in(const std::vector<std::int64_t>& places, const data::RowRange& unit);

/// Steps go along the pool's gradients times the optimizer's factors; of the targets the gradients themselves count.
const Preconditioner& preconditioner_of(const Labelling& run, std::int64_t place);

/// How many of the places each task has; last the contrast.
std::vector<std::int64_t> members_of(const GradientPlan& plan, const std::vector<std::int64_t>& places);

/// Scale of each usable place's gradient in the mean of its task: 1/(usable ones of the task), over its norm with
/// cosine, and in the contrast, of which the direction alone counts; 0 for the others.
torch::Tensor mean_scales(const Labelling& run, const std::vector<std::int64_t>& usable, const torch::Tensor& norms);

/// Takes the parts along `common` (pieces x width) out of the rows (C + r x pieces x width); products are added in
/// fp64. Says of how many of the first C, the targets, nothing is left.
void take_out_contrast(const Labelling& run, const torch::Tensor& common, std::int64_t columns,
                       const torch::Tensor& rows);

/// Part of one chosen layer (outputs x inputs) in what the optimizer's next step adds whatever the gradient is: b.
torch::Tensor step_constant(const Labelling& run, std::size_t layer);

/// Views of the chosen layers in `flat` (... x numbers of a direction): (... x outputs x inputs) each.
std::vector<torch::Tensor> by_layer(const GradientModel& model, const torch::Tensor& flat);

/// The same as passes multiply with them. On another device or in another type they are copies, each layer's in one
/// piece: rows as far apart as those of `flat` may be more than the 2^31 numbers that matrix products on a GPU take.
std::vector<torch::Tensor> directions_by_layer(const GradientModel& model, const torch::Tensor& flat);

}  // namespace idistill::influence
