// Stage 2 with contraction: the tasks' mean gradients, whole.

#include <ATen/ATen.h>

#include <algorithm>

#include "idistill/influence/gradient.hpp"
#include "labelled.hpp"
#include "labels.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

/// Sum of the scaled gradients of the usable places in `range`, as rows of the state. Only usable ones: zero times a
/// gradient that is not finite would spoil the sum.
Tensor gradient_sum(const Run& run, const std::vector<std::int64_t>& usable, const Tensor& scales,
                    const data::RowRange& range, const DirectionRows& layout) {
    const auto first = std::lower_bound(usable.begin(), usable.end(), range.first);
    const std::vector<std::int64_t> places(first, std::lower_bound(first, usable.end(), range.end()));
    auto flat = at::zeros({layout.pieces * layout.width}, run.model.decoder.options());
    auto sums = by_layer(run, flat);
    influence::add_weighted_gradients(
        run.model.decoder, run.model.chosen, read_labelled(run, places),
        scales.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))), run.settings.batch_tokens,
        sums);
    const auto& factors = factors_of(run, range.first).scales;
    for (std::size_t layer = 0; layer < factors.size(); ++layer) sums[layer].mul_(factors[layer]);
    return flat.to(torch::kFloat32).view({layout.pieces, layout.width});
}

}  // namespace

std::vector<Tensor> by_layer(const Run& run, const Tensor& flat) {
    std::vector<Tensor> views;
    std::int64_t offset = 0;
    for (const auto& layer : run.model.chosen.layers()) {
        const auto size = layer.outputs * layer.inputs;
        views.push_back(flat.narrow(-1, offset, size).unflatten(-1, {layer.outputs, layer.inputs}));
        offset += size;
    }
    return views;
}

DirectionRows direction_rows_of(const config::Plan& plan) {
    DirectionRows rows;
    rows.width = std::min(plan.direction_parameters, config::direction_piece);
    rows.pieces =
        std::max<std::int64_t>(1, (plan.direction_parameters + config::direction_piece - 1) / config::direction_piece);
    for (const auto& unit : plan.direction_units)
        rows.units.push_back({{std::ssize(rows.units) * rows.pieces, rows.pieces}, unit.flops});
    return rows;
}

std::vector<Tensor> task_directions(const Run& run, const std::vector<std::int64_t>& usable, const Tensor& norms,
                                    const Tensor& factor) {
    const auto& plan = run.inputs.plan;
    const auto scales = mean_scales(run, usable, norms);
    const auto layout = direction_rows_of(plan);
    const auto unit_at = [&](std::int64_t row) {
        return plan.direction_units[static_cast<std::size_t>(row / layout.pieces)];
    };
    do_units(run, {direction_rows, "task gradients", &layout.units,
                   [&](const data::WorkUnit& unit) { return labelled_work(run, unit_at(unit.rows.first)); },
                   [&](const data::WorkUnit& unit) -> UnitColumns {
                       return {gradient_sum(run, usable, scales, unit_at(unit.rows.first).rows, layout)};
                   }});
    const auto fp32 = at::TensorOptions().dtype(torch::kFloat32);
    const auto columns = plan.tasks + plan.curvature_columns;
    const bool contrast = !plan.contrast_rows.empty();
    auto flat = at::zeros({columns + (contrast ? 1 : 0), layout.pieces, layout.width}, fp32);
    auto piece = at::empty({layout.width}, fp32);
    for (std::int64_t row = 0; row < std::ssize(layout.units) * layout.pieces; ++row) {
        run.state.read(direction_rows, 0, {row, 1},
                       {piece.mutable_data_ptr<float>(), static_cast<std::size_t>(layout.width)});
        const auto task = plan.task_of(unit_at(row).rows.first);
        flat.select(0, task < plan.tasks ? task : columns).select(0, row % layout.pieces).add_(piece);
    }
    const auto wanted = flat.narrow(0, 0, columns);
    if (factor.defined()) wanted.narrow(0, plan.tasks, factor.size(0)).flatten(1).copy_(factor);
    if (contrast) take_out_contrast(run, flat.select(0, columns), plan.tasks, wanted);
    return by_layer(run, wanted.flatten(1).to(run.model.decoder.options()));
}

}  // namespace idistill::stages
