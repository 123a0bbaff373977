// With contraction: the tasks' mean gradients, whole.

#include <ATen/ATen.h>

#include <algorithm>
#include <tuple>

#include "idistill/influence/gradient/passes.hpp"
#include "member.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;

/// Sum of the scaled gradients of the usable places in `range`, as rows of the state. Only usable ones: zero times a
/// gradient that is not finite would spoil the sum.
Tensor gradient_sum(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& scales,
                    const data::RowRange& range) {
    const auto& [pieces, width] = std::tie(run.plan.pieces, run.plan.piece_width);
    const auto first = std::lower_bound(usable.begin(), usable.end(), range.first);
    const std::vector<std::int64_t> places(first, std::lower_bound(first, usable.end(), range.end()));
    auto flat = at::zeros({pieces * width}, run.model.decoder.options());
    auto sums = by_layer(run.model, flat);
    add_weighted_gradients(run.model.decoder, run.model.chosen, read_labelled(run, places),
                           scales.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))),
                           run.batch_tokens, sums);
    const auto& factors = factors_of(run, range.first).scales;
    for (std::size_t layer = 0; layer < factors.size(); ++layer) sums[layer].mul_(factors[layer]);
    return flat.to(torch::kFloat32).view({pieces, width});
}

}  // namespace

std::vector<Tensor> by_layer(const GradientModel& model, const Tensor& flat) {
    std::vector<Tensor> views;
    std::int64_t offset = 0;
    for (const auto& layer : model.chosen.layers()) {
        const auto size = layer.outputs * layer.inputs;
        views.push_back(flat.narrow(-1, offset, size).unflatten(-1, {layer.outputs, layer.inputs}));
        offset += size;
    }
    return views;
}

std::vector<Tensor> task_directions(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& norms,
                                    const Tensor& factor) {
    const auto& plan = run.plan;
    const auto scales = mean_scales(run, usable, norms);
    work::do_units(run.work, state::directions, [&](const data::WorkUnit& unit) -> std::vector<Tensor> {
        return {gradient_sum(run, usable, scales, unit.rows)};
    });
    const auto& units = run.work.plan.stage(state::directions).units;
    const auto fp32 = at::TensorOptions().dtype(torch::kFloat32);
    const auto columns = plan.tasks + plan.curvature_columns;
    const bool contrast = !plan.contrast_rows.empty();
    auto flat = at::zeros({columns + (contrast ? 1 : 0), plan.pieces, plan.piece_width}, fp32);
    auto piece = at::empty({plan.piece_width}, fp32);
    for (std::int64_t row = 0; row < std::ssize(units) * plan.pieces; ++row) {
        run.work.read(state::directions, state::sum, {row, 1},
                      {piece.mutable_data_ptr<float>(), static_cast<std::size_t>(plan.piece_width)});
        const auto task = plan.task_of(units[static_cast<std::size_t>(row / plan.pieces)].rows.first);
        flat.select(0, task < plan.tasks ? task : columns).select(0, row % plan.pieces).add_(piece);
    }
    const auto wanted = flat.narrow(0, 0, columns);
    if (factor.defined()) wanted.narrow(0, plan.tasks, factor.size(0)).flatten(1).copy_(factor);
    if (contrast) take_out_contrast(run, flat.select(0, columns), plan.tasks, wanted);
    return by_layer(run.model, wanted.flatten(1).to(run.model.decoder.options()));
}

}  // namespace idistill::influence
