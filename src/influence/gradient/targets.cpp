// Stage 2, exact labels of the targets: gradient sketches, or with contraction the tasks' mean gradients; units claimed
// by any rank, results whole on every rank. What the curvature adds follows as further rows.

#include "targets.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "curvature.hpp"
#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/precision.hpp"
#include "places.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;

/// Places whose gradient is finite and not zero, ascending; sorts targets into kept and dropped, and the pool's samples
/// into contrast and unusable.
std::vector<std::int64_t> usable_places(const Labelling& run, const Tensor& norms, GradientColumns& labels) {
    const auto& plan = run.plan;
    const auto targets = plan.targets();
    std::vector<std::int64_t> usable;
    for (std::int64_t place = 0; place < norms.numel(); ++place) {
        const float norm = norms.const_data_ptr<float>()[place];
        const bool fits = std::isfinite(norm) && norm > 0;
        if (place < targets)
            (fits ? labels.kept : labels.dropped).push_back(place);
        else
            (fits ? labels.contrast : labels.unusable)
                .push_back(plan.contrast_rows[static_cast<std::size_t>(place - targets)]);
        if (fits) usable.push_back(place);
    }
    std::sort(labels.unusable.begin(), labels.unusable.end());
    const auto members = members_of(plan, usable);
    for (std::size_t task = 0; task < static_cast<std::size_t>(plan.tasks); ++task)
        if (members[task] == 0)
            throw Error(ExitCode::bad_input,
                        {run.inputs().path_of_target(task), "gradients", "a target sample with a finite gradient",
                         "none", "Check the model's weights, or leave this target out."});
    return usable;
}

/// One empty direction set a layer: norms alone are wanted.
std::vector<Tensor> no_directions(const Labelling& run) {
    std::vector<Tensor> none;
    for (const auto& layer : run.model.chosen.layers())
        none.push_back(at::empty({0, layer.outputs, layer.inputs}, model::accumulating(run.model.decoder.options())));
    return none;
}

/// label_tokens and norm of every column.
void describe_columns(const Labelling& run, const Tensor& norms, GradientColumns& labels) {
    const auto& plan = run.plan;
    const auto columns = labels.task.size();
    const bool tasks = run.by_task();
    std::vector<double> norm(columns, 0.0), members(columns, 0.0);
    labels.label_tokens.assign(columns, 0);
    for (std::size_t i = 0; i < labels.kept.size(); ++i) {
        const auto place = static_cast<std::size_t>(labels.kept[i]);
        const auto column = tasks ? static_cast<std::size_t>(plan.target_task[place]) : i;
        labels.label_tokens[column] += run.targets.index().labels[static_cast<std::size_t>(plan.target_rows[place])];
        norm[column] += static_cast<double>(norms.const_data_ptr<float>()[place]);
        members[column] += 1.0;
    }
    for (std::size_t column = 0; column < columns; ++column)
        labels.norm.push_back(static_cast<float>(norm[column] / members[column]));
}

/// Of the pool's samples among the usable places.
struct Contrast {
    Tensor mean;     ///< (1 x k, fp64) mean unit sketch, added in their order; zero without any
    Tensor squares;  ///< (parts) mean part_norms of unit sketches; undefined without any, or where no parts are known
};

Contrast contrast_of(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& scales) {
    const auto& plan = run.plan;
    const auto parts = run.model.sketch->dense_parts();
    Contrast contrast{at::zeros({1, plan.sketch.width}, at::TensorOptions().dtype(torch::kFloat64)), {}};
    auto row = at::empty({1, plan.sketch.width}, at::TensorOptions().dtype(torch::kFloat32));
    double count = 0.0;
    for (const auto place : usable) {
        if (plan.task_of(place) < plan.tasks) continue;
        count += 1.0;
        run.work.state.read(plan.stage(gradient_state::targets), gradient_state::sketch, {place, 1}, work::values(row));
        const auto scale = scales[place].item<double>();  // 1 / count / norm
        contrast.mean.add_(row.to(torch::kFloat64), scale);
        if (!parts || parts->empty()) continue;
        const auto squares = part_norms(row, *parts).squeeze(0) * (scale * scale);
        contrast.squares = contrast.squares.defined() ? contrast.squares + squares : squares;
    }
    if (contrast.squares.defined()) contrast.squares.mul_(count);
    return contrast;
}

/// (tasks) of Columns::task_error, of unit samples like those of the contrast, or without one like the targets
/// themselves. `columns` (C x k, fp64), `task` (C).
std::vector<double> sketch_errors(const Labelling& run, const Tensor& columns, const std::vector<std::int32_t>& task,
                                  const Contrast& contrast) {
    const auto tasks = static_cast<std::size_t>(run.plan.tasks);
    const auto parts = run.model.sketch->dense_parts();
    if (!parts) return std::vector<double>(tasks, std::numeric_limits<double>::quiet_NaN());
    if (parts->empty()) return std::vector<double>(tasks, 0.0);
    const auto index = at::tensor(task, at::TensorOptions().dtype(torch::kInt32)).to(torch::kInt64);
    const auto count = run.plan.tasks;
    const auto sums = at::zeros({count, columns.size(1)}, columns.options()).index_add_(0, index, columns);
    auto samples = contrast.squares;
    if (!samples.defined()) {
        const auto squares = part_norms(columns, *parts);
        samples = (squares / squares.sum(1, true)).mean(0);
    }
    const auto errors = expected_errors(sums / at::bincount(index, {}, count).unsqueeze(1), samples, *parts);
    return {errors.const_data_ptr<double>(), errors.const_data_ptr<double>() + tasks};
}

/// (r x k) of the rows of `vectors` (r x numbers of a direction; undefined: none).
Tensor vector_sketches(const Labelling& run, const Tensor& vectors) {
    const auto& sketch = *run.model.sketch;
    const auto pairs = run.plan.curvature_columns;
    const auto options = model::accumulating(run.model.decoder.options());
    auto sketches = at::zeros({pairs, sketch.width()}, options);
    for (std::int64_t row = 0; row < pairs; ++row) {
        const auto layers = by_layer(run.model, vectors.select(0, row));
        for (std::size_t layer = 0; layer < layers.size(); ++layer)
            sketch.accumulate_dense(layer, layers[layer].to(options).unsqueeze(0), sketches.narrow(0, row, 1));
    }
    return sketches.cpu();
}

/// (C + r x k): rows of the kept targets over their norm, or with --columns tasks their means, added in the order of
/// the targets in fp64; then those of `vectors`; without the part that --contrast takes out. `sketches` (M x k). Fills
/// in labels.task_error.
Tensor column_sketches(const Labelling& run, GradientColumns& labels, const std::vector<std::int64_t>& usable,
                       const Tensor& sketches, const Tensor& norms, const Tensor& vectors) {
    const auto scales = mean_scales(run, usable, norms);
    Tensor rows;
    if (run.by_task()) {
        rows = at::zeros({run.plan.tasks, sketches.size(1)}, at::TensorOptions().dtype(torch::kFloat64));
        for (const auto place : labels.kept)
            rows[run.plan.task_of(place)].add_(sketches[place].to(torch::kFloat64), scales[place].item<double>());
    } else {
        const auto kept = at::tensor(labels.kept, at::TensorOptions().dtype(torch::kInt64));
        rows = sketches.index_select(0, kept).to(torch::kFloat64);
        if (run.cosine()) rows.div_(norms.index_select(0, kept).unsqueeze(1));
    }
    rows = at::cat({rows, vector_sketches(run, vectors).to(torch::kFloat64)});
    const auto contrast = contrast_of(run, usable, scales);
    take_out_contrast(run, contrast.mean, labels.count(), rows.unsqueeze(1));
    labels.task_error = sketch_errors(run, rows.narrow(0, 0, labels.count()), labels.task, contrast);
    return rows.to(torch::kFloat32);
}

/// (C) of the kept targets' products (M) with the optimizer's b.
std::vector<float> step_products(const Labelling& run, const GradientColumns& labels, const Tensor& products,
                                 const Tensor& norms) {
    std::vector<float> kept;
    for (const auto place : labels.kept)
        kept.push_back(products.const_data_ptr<float>()[place] /
                       (run.cosine() ? norms.const_data_ptr<float>()[place] : 1.0F));
    return kept;
}

/// Columns of a unit of targets or of the contrast, of which the optimizer's b does not matter.
std::vector<Tensor> label_unit(const Labelling& run, const data::WorkUnit& unit) {
    const auto& plan = run.plan;
    const auto& [model, chosen, batch_tokens] = std::tie(run.model.decoder, run.model.chosen, run.run().batch_tokens);
    std::vector<std::int64_t> places(static_cast<std::size_t>(unit.rows.count));
    std::iota(places.begin(), places.end(), unit.rows.first);
    const auto samples = read_places(run, places);
    const auto& factors = preconditioner_of(run, places.front());
    const auto no_products = at::zeros({unit.rows.count, plan.step_products});
    if (!run.model.sketch) {
        const auto g = gradient_products(model, chosen, no_directions(run), samples, batch_tokens, factors);
        return {g.norm, g.features, no_products};
    }
    if (plan.step_products == 0 || unit.rows.first >= plan.targets()) {
        const auto g = gradient_sketches(model, chosen, *run.model.sketch, samples, batch_tokens, factors);
        return {g.norm, g.features, no_products};
    }
    const auto g = gradient_sketches_and_products(
        model, chosen, *run.model.sketch, [&run](std::size_t layer) { return step_constant(run, layer); }, samples,
        batch_tokens);
    return {g.rows.norm, g.rows.features, g.products};
}

/// Sum of the scaled gradients of the usable places in `range`, as rows of the state. Only usable ones: zero times a
/// gradient that is not finite would spoil the sum.
Tensor gradient_sum(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& scales,
                    const data::RowRange& range) {
    const auto& [pieces, width] = std::tie(run.plan.pieces, run.plan.piece_width);
    const auto places = places_in(usable, range);
    auto flat = at::zeros({pieces * width}, model::accumulating(run.model.decoder.options()));
    auto sums = by_layer(run.model, flat);
    add_weighted_gradients(run.model.decoder, run.model.chosen, read_places(run, places),
                           scales.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))),
                           run.run().batch_tokens, sums);
    const auto& factors = preconditioner_of(run, range.first).scales;
    for (std::size_t layer = 0; layer < factors.size(); ++layer) sums[layer].mul_(factors[layer]);
    return flat.to(torch::kFloat32).view({pieces, width});
}

/// With contraction: mean gradient of every task, and behind them `vectors` (r x numbers of a direction; undefined:
/// none), without the part that --contrast takes out; a tensor (C + r x outputs x inputs) a layer. The tasks' are sums
/// of units, claimed by any rank and added in their order.
std::vector<Tensor> task_directions(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& norms,
                                    const Tensor& vectors) {
    const auto& plan = run.plan;
    const auto scales = mean_scales(run, usable, norms);
    work::do_units(run.work, plan.stage(gradient_state::directions),
                   [&](const data::WorkUnit& unit) -> std::vector<Tensor> {
                       return {gradient_sum(run, usable, scales, unit.rows)};
                   });
    const auto& units = run.work.plan.stage(plan.stage(gradient_state::directions)).units;
    const auto fp32 = at::TensorOptions().dtype(torch::kFloat32);
    const auto columns = plan.tasks + plan.curvature_columns;
    const bool contrast = !plan.contrast_rows.empty();
    auto flat = at::zeros({columns + (contrast ? 1 : 0), plan.pieces, plan.piece_width}, fp32);
    auto piece = at::empty({plan.piece_width}, fp32);
    for (std::int64_t row = 0; row < std::ssize(units) * plan.pieces; ++row) {
        run.work.state.read(plan.stage(gradient_state::directions), gradient_state::sum, {row, 1}, work::values(piece));
        const auto task = plan.task_of(units[static_cast<std::size_t>(row / plan.pieces)].rows.first);
        flat.select(0, task < plan.tasks ? task : columns).select(0, row % plan.pieces).add_(piece);
    }
    const auto wanted = flat.narrow(0, 0, columns);
    if (vectors.defined()) wanted.narrow(0, plan.tasks, vectors.size(0)).flatten(1).copy_(vectors);
    if (contrast) take_out_contrast(run, flat.select(0, columns), plan.tasks, wanted);
    return directions_by_layer(run.model, wanted.flatten(1));
}

}  // namespace

TargetLabels label_targets(const Labelling& run) {
    const auto& plan = run.plan;
    const auto stage = plan.stage(gradient_state::targets);
    auto whole = work::do_units_and_gather(
        run.work, stage, [&](const data::WorkUnit& unit) { return label_unit(run, unit); }, {0, plan.targets()});
    auto norms = at::empty({plan.places()}, whole[0].options());
    norms.narrow(0, 0, plan.targets()).copy_(whole[0].view({-1}));
    if (plan.places() > plan.targets())
        run.work.state.read(stage, gradient_state::norm, {plan.targets(), plan.places() - plan.targets()},
                            work::values(norms).subspan(static_cast<std::size_t>(plan.targets())));
    return {std::move(norms), std::move(whole[1]), std::move(whole[2])};
}

std::unique_ptr<GradientColumns> make_columns(const Labelling& run, const TargetLabels& labelled) {
    const auto& plan = run.plan;
    const auto& norms = labelled.norms;
    auto made = std::make_unique<GradientColumns>();
    auto& labels = *made;
    const auto usable = usable_places(run, norms, labels);
    if (run.by_task()) {
        labels.task.resize(static_cast<std::size_t>(plan.tasks));
        std::iota(labels.task.begin(), labels.task.end(), 0);
    } else {
        for (const auto place : labels.kept) labels.task.push_back(plan.target_task[static_cast<std::size_t>(place)]);
    }
    describe_columns(run, norms, labels);
    if (plan.step_products > 0) labels.step_product = step_products(run, labels, labelled.products, norms);
    Tensor vectors;
    if (plan.curvature_columns > 0) {
        auto curvature = target_curvature(run, labels.kept, norms);
        labels.curvature = std::move(curvature.value);
        labels.curvature_step = std::move(curvature.step);
        vectors = std::move(curvature.vectors);
    }
    if (run.model.sketch)
        labels.sketches = column_sketches(run, labels, usable, labelled.sketches, norms, vectors)
                              .to(model::accumulating(run.model.decoder.options()));
    else
        labels.directions = task_directions(run, usable, norms, vectors);
    return made;
}

}  // namespace idistill::influence
