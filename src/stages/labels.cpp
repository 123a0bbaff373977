// Stages 2 and 3, exact labels: gradient passes over targets and landmarks, units claimed by any rank; results whole on
// every rank.

#include "labels.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "idistill/influence/gradient.hpp"
#include "idistill/report/error.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

bool cosine(const Run& run) { return run.settings.normalize == "cosine"; }

std::vector<std::int64_t> slice(const std::vector<std::int64_t>& rows, const data::RowRange& range) {
    return {rows.begin() + range.first, rows.begin() + range.end()};
}

/// One empty direction set a layer: norms alone are wanted.
std::vector<Tensor> no_directions(const Run& run) {
    std::vector<Tensor> none;
    for (const auto& layer : run.model.chosen.layers())
        none.push_back(at::empty({0, layer.outputs, layer.inputs}, run.model.decoder.options()));
    return none;
}

/// Sorts the targets into kept and dropped by their norms, and says so.
void keep_finite_targets(const Run& run, const Tensor& norms, TargetLabels& labels) {
    const auto* norm = norms.const_data_ptr<float>();
    for (std::int64_t i = 0; i < norms.numel(); ++i)
        (std::isfinite(norm[i]) && norm[i] > 0 ? labels.kept : labels.dropped).push_back(i);
    if (!labels.dropped.empty())
        say(run.comm, fmt::format("warning: {} target samples left out: their gradient is zero or not finite",
                                  labels.dropped.size()));
    for (std::size_t task = 0; task < run.settings.targets.size(); ++task) {
        const auto own = [&](std::int64_t place) {
            return run.inputs.plan.target_task[static_cast<std::size_t>(place)] == static_cast<std::int32_t>(task);
        };
        if (std::none_of(labels.kept.begin(), labels.kept.end(), own))
            throw Error(ExitCode::bad_input,
                        {run.settings.targets[task].path, "gradients", "a target sample with a finite gradient", "none",
                         "Check the model's weights, or leave this target out."});
    }
}

/// label_tokens and norm of every column.
void describe_columns(const Run& run, const Tensor& norms, TargetLabels& labels) {
    const auto& plan = run.inputs.plan;
    const auto columns = labels.column_task.size();
    const bool tasks = run.settings.columns == "tasks";
    std::vector<double> norm(columns, 0.0), members(columns, 0.0);
    labels.label_tokens.assign(columns, 0);
    for (std::size_t i = 0; i < labels.kept.size(); ++i) {
        const auto place = static_cast<std::size_t>(labels.kept[i]);
        const auto column = tasks ? static_cast<std::size_t>(plan.target_task[place]) : i;
        labels.label_tokens[column] +=
            run.inputs.targets.index().labels[static_cast<std::size_t>(plan.target_rows[place])];
        norm[column] += static_cast<double>(norms.const_data_ptr<float>()[place]);
        members[column] += 1.0;
    }
    for (std::size_t column = 0; column < columns; ++column)
        labels.norm.push_back(static_cast<float>(norm[column] / members[column]));
}

/// Scale of each target's gradient in the mean of its task: 1/(kept targets of the task), over its norm with cosine.
Tensor mean_scales(const Run& run, const TargetLabels& labels, const Tensor& norms) {
    std::vector<std::int64_t> members(run.settings.targets.size(), 0);
    for (const auto place : labels.kept)
        ++members[static_cast<std::size_t>(run.inputs.plan.target_task[static_cast<std::size_t>(place)])];
    auto scales = at::zeros({norms.numel()}, norms.options());
    for (const auto place : labels.kept) {
        const auto count = static_cast<double>(
            members[static_cast<std::size_t>(run.inputs.plan.target_task[static_cast<std::size_t>(place)])]);
        scales[place] = 1.0 / count / (cosine(run) ? norms[place].item<double>() : 1.0);
    }
    return scales;
}

/// (C x k): rows of the kept targets over their norm, or with --columns tasks their means, added in the order of the
/// targets in fp64.
Tensor column_sketches(const Run& run, const TargetLabels& labels, const Tensor& sketches, const Tensor& norms) {
    if (run.settings.columns == "tasks") {
        const auto scales = mean_scales(run, labels, norms);
        auto means = at::zeros({static_cast<std::int64_t>(run.settings.targets.size()), sketches.size(1)},
                               at::TensorOptions().dtype(torch::kFloat64));
        for (const auto place : labels.kept)
            means[run.inputs.plan.target_task[static_cast<std::size_t>(place)]].add_(
                sketches[place].to(torch::kFloat64), scales[place].item<double>());
        return means.to(torch::kFloat32);
    }
    const auto kept = at::tensor(labels.kept, at::TensorOptions().dtype(torch::kInt64));
    auto rows = sketches.index_select(0, kept);
    return cosine(run) ? rows.div_(norms.index_select(0, kept).unsqueeze(1)) : rows;
}

/// Views of the layers in `flat` (... x parameters and more): (... x outputs x inputs) each.
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

/// Sum of the scaled gradients of the kept targets in `range`, as rows of the state. Only kept ones: zero times a
/// gradient that is not finite would spoil the sum.
Tensor gradient_sum(const Run& run, const TargetLabels& labels, const Tensor& scales, const data::RowRange& range,
                    const DirectionRows& layout) {
    const auto first = std::lower_bound(labels.kept.begin(), labels.kept.end(), range.first);
    const std::vector<std::int64_t> places(first, std::lower_bound(first, labels.kept.end(), range.end()));
    std::vector<std::int64_t> rows;
    rows.reserve(places.size());
    for (const auto place : places) rows.push_back(run.inputs.plan.target_rows[static_cast<std::size_t>(place)]);
    auto flat = at::zeros({layout.pieces * layout.width}, run.model.decoder.options());
    auto sums = by_layer(run, flat);
    influence::add_weighted_gradients(
        run.model.decoder, run.model.chosen, run.inputs.targets.read(rows),
        scales.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))), run.settings.batch_tokens,
        sums);
    return flat.to(torch::kFloat32).view({layout.pieces, layout.width});
}

/// Mean gradient of every task, a tensor (C x outputs x inputs) a layer: the sums of the units, added in unit order.
std::vector<Tensor> task_directions(const Run& run, const TargetLabels& labels, const Tensor& norms) {
    const auto& plan = run.inputs.plan;
    const auto scales = mean_scales(run, labels, norms);
    const auto layout = direction_rows_of(plan);
    const auto unit_at = [&](std::int64_t row) {
        return plan.direction_units[static_cast<std::size_t>(row / layout.pieces)];
    };
    const auto targets = sample_work(run.inputs.targets, &plan.target_rows);
    do_units(run, {direction_rows, "task gradients", &layout.units,
                   [&](const data::WorkUnit& unit) { return targets(unit_at(unit.rows.first)); },
                   [&](const data::WorkUnit& unit) -> UnitColumns {
                       return {gradient_sum(run, labels, scales, unit_at(unit.rows.first).rows, layout)};
                   }});
    const auto fp32 = at::TensorOptions().dtype(torch::kFloat32);
    auto flat = at::zeros({labels.columns(), layout.pieces, layout.width}, fp32);
    auto piece = at::empty({layout.width}, fp32);
    for (std::int64_t row = 0; row < std::ssize(layout.units) * layout.pieces; ++row) {
        run.state.read(direction_rows, 0, {row, 1},
                       {piece.mutable_data_ptr<float>(), static_cast<std::size_t>(layout.width)});
        const auto task = plan.target_task[static_cast<std::size_t>(unit_at(row).rows.first)];
        flat.select(0, task).select(0, row % layout.pieces).add_(piece);
    }
    return by_layer(run, flat.flatten(1).to(run.model.decoder.options()));
}

}  // namespace

DirectionRows direction_rows_of(const config::Plan& plan) {
    DirectionRows rows;
    rows.width = std::min(plan.direction_parameters, config::direction_piece);
    rows.pieces =
        std::max<std::int64_t>(1, (plan.direction_parameters + config::direction_piece - 1) / config::direction_piece);
    for (const auto& unit : plan.direction_units)
        rows.units.push_back({{std::ssize(rows.units) * rows.pieces, rows.pieces}, unit.flops});
    return rows;
}

Tensor widen(const Tensor& influence, std::int64_t columns) {
    return at::constant_pad_nd(influence, {0, columns - influence.size(1)}, std::numeric_limits<float>::quiet_NaN());
}

ExactRows exact_rows(const Run& run, const TargetLabels& targets, const data::Samples& samples) {
    ExactRows rows;
    Tensor products;
    if (run.encoders.sketch) {
        const auto g = influence::gradient_sketches(run.model.decoder, run.model.chosen, *run.encoders.sketch, samples,
                                                    run.settings.batch_tokens, run.model.optimizer.preconditioner);
        rows.norm = g.norm;
        products = at::mm(g.features, targets.sketches.to(g.features.options()).t());
    } else {
        const auto g = influence::gradient_products(run.model.decoder, run.model.chosen, targets.directions, samples,
                                                    run.settings.batch_tokens, run.model.optimizer.preconditioner);
        rows.norm = g.norm;
        products = g.features;
    }
    // A gradient that is zero or not finite has no direction: its influence is NaN, which quarantines the sample.
    const auto usable = at::logical_and(at::isfinite(rows.norm), rows.norm.gt(0)).unsqueeze(1);
    rows.influence = at::where(usable, cosine(run) ? products / rows.norm.unsqueeze(1) : products,
                               at::full({}, std::numeric_limits<float>::quiet_NaN(), products.options()));
    return rows;
}

TargetLabels label_targets(const Run& run) {
    const auto& plan = run.inputs.plan;
    const auto& sketch = run.encoders.sketch;
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto samples = run.inputs.targets.read(slice(plan.target_rows, unit.rows));
        const auto g = sketch ? influence::gradient_sketches(run.model.decoder, run.model.chosen, *sketch, samples,
                                                             run.settings.batch_tokens)
                              : influence::gradient_products(run.model.decoder, run.model.chosen, no_directions(run),
                                                             samples, run.settings.batch_tokens);
        return {g.norm, g.features};
    };
    const auto whole = do_units_and_gather(
        run, {target_rows, "targets", &plan.target_units, sample_work(run.inputs.targets, &plan.target_rows), compute},
        static_cast<std::int64_t>(plan.target_rows.size()), {1, plan.sketch.width});
    const auto norms = whole[0].view({-1});
    TargetLabels labels;
    keep_finite_targets(run, norms, labels);
    if (run.settings.columns == "tasks") {
        for (std::size_t task = 0; task < run.settings.targets.size(); ++task)
            labels.column_task.push_back(static_cast<std::int32_t>(task));
    } else {
        for (const auto place : labels.kept)
            labels.column_task.push_back(plan.target_task[static_cast<std::size_t>(place)]);
    }
    describe_columns(run, norms, labels);
    if (sketch)
        labels.sketches = column_sketches(run, labels, whole[1], norms);
    else
        labels.directions = task_directions(run, labels, norms);
    return labels;
}

LandmarkLabels label_landmarks(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto samples = run.inputs.pool.read(slice(plan.landmarks, unit.rows));
        const auto exact = exact_rows(run, targets, samples);
        return {exact.norm, widen(exact.influence, plan.columns),
                (*run.encoders.embedding)(samples, run.settings.batch_tokens)};
    };
    const auto whole = do_units_and_gather(
        run, {landmark_rows, "landmarks", &plan.landmark_units, sample_work(run.inputs.pool, &plan.landmarks), compute},
        static_cast<std::int64_t>(plan.landmarks.size()), {1, plan.columns, plan.embedding_width});
    LandmarkLabels labels{whole[1].narrow(1, 0, targets.columns()).contiguous(), whole[0].view({-1}), whole[2], {}};
    for (std::size_t i = 0; i < plan.landmarks.size(); ++i)
        labels.place[plan.landmarks[i]] = static_cast<std::int64_t>(i);
    return labels;
}

void compute_pool_exactly(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto rows = eligible_rows(plan, unit.rows);
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.columns}, std::numeric_limits<float>::quiet_NaN());
        if (!rows.empty()) {
            const auto exact = exact_rows(run, targets, run.inputs.pool.read(rows));
            const auto place = at::tensor(rows, at::TensorOptions().dtype(torch::kInt64)) - unit.rows.first;
            norm.index_copy_(0, place, exact.norm.cpu());
            influence.index_copy_(0, place, widen(exact.influence, plan.columns).cpu());
        }
        return {norm, influence};
    };
    do_units(run, {pool_rows, "exact influence", &plan.pool_units, sample_work(run.inputs.pool), compute});
}

}  // namespace idistill::stages
