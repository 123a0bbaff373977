// Stage 2, exact labels of the targets: gradient sketches, or with contraction the tasks' mean gradients; units claimed
// by any rank, results whole on every rank.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "idistill/influence/gradient.hpp"
#include "idistill/report/error.hpp"
#include "labels.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

/// One empty direction set a layer: norms alone are wanted.
std::vector<Tensor> no_directions(const Run& run) {
    std::vector<Tensor> none;
    for (const auto& layer : run.model.chosen.layers())
        none.push_back(at::empty({0, layer.outputs, layer.inputs}, run.model.decoder.options()));
    return none;
}

/// Samples at places of the plan's target units.
data::Samples read_labelled(const Run& run, const std::vector<std::int64_t>& places) {
    const auto& plan = run.inputs.plan;
    const auto targets = std::ssize(plan.target_rows);
    const bool of_pool = !places.empty() && places.front() >= targets;  // no unit crosses from targets to the pool
    std::vector<std::int64_t> rows;
    rows.reserve(places.size());
    for (const auto place : places)
        rows.push_back(of_pool ? plan.contrast_rows[static_cast<std::size_t>(place - targets)]
                               : plan.target_rows[static_cast<std::size_t>(place)]);
    return of_pool ? run.inputs.pool.read(rows) : run.inputs.targets.read(rows);
}

/// Steps go along the pool's gradients times the optimizer's factors; of the targets the gradients themselves count.
const influence::Preconditioner& factors_of(const Run& run, std::int64_t place) {
    static const influence::Preconditioner plain;
    return place < std::ssize(run.inputs.plan.target_rows) ? plain : run.model.optimizer.preconditioner;
}

Work labelled_work(const Run& run, const data::WorkUnit& unit) {
    const auto& plan = run.inputs.plan;
    const auto targets = std::ssize(plan.target_rows);
    if (unit.rows.first < targets) return sample_work(run.inputs.targets, &plan.target_rows)(unit);
    return sample_work(run.inputs.pool,
                       &plan.contrast_rows)({{unit.rows.first - targets, unit.rows.count}, unit.flops});
}

/// How many of the places each task has; last the contrast.
std::vector<std::int64_t> members_of(const config::Plan& plan, const std::vector<std::int64_t>& places) {
    std::vector<std::int64_t> members(static_cast<std::size_t>(plan.tasks + 1), 0);
    for (const auto place : places) ++members[static_cast<std::size_t>(plan.task_of(place))];
    return members;
}

/// Places whose gradient is finite and not zero, ascending; sorts targets into kept and dropped, and the pool's samples
/// into contrast and unusable, and says what is left out.
std::vector<std::int64_t> usable_places(const Run& run, const Tensor& norms, TargetLabels& labels) {
    const auto& plan = run.inputs.plan;
    const auto targets = std::ssize(plan.target_rows);
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
    if (!labels.dropped.empty())
        say(run.comm, fmt::format("warning: {} target samples left out: their gradient is zero or not finite",
                                  labels.dropped.size()));
    const auto members = members_of(plan, usable);
    for (std::size_t task = 0; task < run.settings.targets.size(); ++task)
        if (members[task] == 0)
            throw Error(ExitCode::bad_input,
                        {run.settings.targets[task].path, "gradients", "a target sample with a finite gradient", "none",
                         "Check the model's weights, or leave this target out."});
    if (!labels.unusable.empty())
        say(run.comm, fmt::format("warning: {} of the {} pool samples of the contrast left out: their gradient is zero "
                                  "or not finite",
                                  labels.unusable.size(), plan.contrast_rows.size()));
    return usable;
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

/// Scale of each usable place's gradient in the mean of its task: 1/(usable ones of the task), over its norm with
/// cosine, and in the contrast, of which the direction alone counts; 0 for the others.
Tensor mean_scales(const Run& run, const std::vector<std::int64_t>& usable, const Tensor& norms) {
    const auto& plan = run.inputs.plan;
    const auto members = members_of(plan, usable);
    auto scales = at::zeros({norms.numel()}, norms.options());
    for (const auto place : usable) {
        const auto count = static_cast<double>(members[static_cast<std::size_t>(plan.task_of(place))]);
        const bool unit = cosine(run) || plan.task_of(place) == plan.tasks;
        scales[place] = 1.0 / count / (unit ? norms[place].item<double>() : 1.0);
    }
    return scales;
}

/// A target of which so small a share is left, in squared norm, is nothing but the contrast.
constexpr double nothing_left = 1e-6;

/// Takes the parts along `common` (pieces x width) out of the rows (C x pieces x width); products are added in fp64.
void project_out(const Run& run, const Tensor& common, Tensor& rows) {
    const auto product = [](const Tensor& one, const Tensor& other) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < one.size(0); ++i)  // a piece at a time: rows can be as long as the model
            sum += at::mul(one[i], other[i]).sum(torch::kFloat64).item<double>();
        return sum;
    };
    const double square = product(common, common);
    std::int64_t empty = 0;
    for (std::int64_t column = 0; square > 0 && column < rows.size(0); ++column) {
        auto row = rows.select(0, column);
        const double before = product(row, row);
        row.sub_(common, product(common, row) / square);
        if (product(row, row) > nothing_left * before) continue;
        row.zero_();
        ++empty;
    }
    if (empty > 0)
        say(run.comm, fmt::format("warning: nothing is left of {} targets without the pool's mean gradient: their "
                                  "influences are 0. --contrast 0 keeps it.",
                                  empty));
}

/// Mean unit sketch (1 x k, fp64) of the pool's samples among the usable places, added in their order; zero without
/// any.
Tensor contrast_sketch(const Run& run, const std::vector<std::int64_t>& usable, const Tensor& scales) {
    const auto& plan = run.inputs.plan;
    auto mean = at::zeros({plan.sketch.width}, at::TensorOptions().dtype(torch::kFloat64));
    auto row = at::empty({plan.sketch.width}, at::TensorOptions().dtype(torch::kFloat32));
    for (const auto place : usable) {
        if (plan.task_of(place) < plan.tasks) continue;
        run.state.read(target_rows, 1, {place, 1},
                       {row.mutable_data_ptr<float>(), static_cast<std::size_t>(row.numel())});
        mean.add_(row.to(torch::kFloat64), scales[place].item<double>());
    }
    return mean.unsqueeze(0);
}

/// (C x k): rows of the kept targets over their norm, or with --columns tasks their means, added in the order of the
/// targets in fp64; without the part that --contrast takes out. `sketches` (M x k).
Tensor column_sketches(const Run& run, const TargetLabels& labels, const std::vector<std::int64_t>& usable,
                       const Tensor& sketches, const Tensor& norms) {
    const auto scales = mean_scales(run, usable, norms);
    Tensor rows;
    if (run.settings.columns == "tasks") {
        rows = at::zeros({run.inputs.plan.tasks, sketches.size(1)}, at::TensorOptions().dtype(torch::kFloat64));
        for (const auto place : labels.kept)
            rows[run.inputs.plan.task_of(place)].add_(sketches[place].to(torch::kFloat64),
                                                      scales[place].item<double>());
    } else {
        const auto kept = at::tensor(labels.kept, at::TensorOptions().dtype(torch::kInt64));
        rows = sketches.index_select(0, kept).to(torch::kFloat64);
        if (cosine(run)) rows.div_(norms.index_select(0, kept).unsqueeze(1));
    }
    rows = rows.unsqueeze(1);
    project_out(run, contrast_sketch(run, usable, scales), rows);
    return rows.squeeze(1).to(torch::kFloat32);
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

/// Mean gradient of every task, a tensor (C x outputs x inputs) a layer: the sums of the units, added in unit order;
/// without the part that --contrast takes out.
std::vector<Tensor> task_directions(const Run& run, const std::vector<std::int64_t>& usable, const Tensor& norms) {
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
    const auto rows = plan.tasks + (plan.contrast_rows.empty() ? 0 : 1);
    auto flat = at::zeros({rows, layout.pieces, layout.width}, fp32);
    auto piece = at::empty({layout.width}, fp32);
    for (std::int64_t row = 0; row < std::ssize(layout.units) * layout.pieces; ++row) {
        run.state.read(direction_rows, 0, {row, 1},
                       {piece.mutable_data_ptr<float>(), static_cast<std::size_t>(layout.width)});
        const auto task = plan.task_of(unit_at(row).rows.first);
        flat.select(0, task).select(0, row % layout.pieces).add_(piece);
    }
    auto means = flat.narrow(0, 0, plan.tasks);
    if (rows > plan.tasks) project_out(run, flat.select(0, plan.tasks), means);
    return by_layer(run, means.flatten(1).to(run.model.decoder.options()));
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

TargetLabels label_targets(const Run& run) {
    const auto& plan = run.inputs.plan;
    const auto& sketch = run.encoders.sketch;
    const auto targets = std::ssize(plan.target_rows);
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        std::vector<std::int64_t> places(static_cast<std::size_t>(unit.rows.count));
        std::iota(places.begin(), places.end(), unit.rows.first);
        const auto samples = read_labelled(run, places);
        const auto& factors = factors_of(run, places.front());
        const auto g = sketch ? influence::gradient_sketches(run.model.decoder, run.model.chosen, *sketch, samples,
                                                             run.settings.batch_tokens, factors)
                              : influence::gradient_products(run.model.decoder, run.model.chosen, no_directions(run),
                                                             samples, run.settings.batch_tokens, factors);
        return {g.norm, g.features};
    };
    const auto whole =
        do_units_and_gather(run,
                            {target_rows, "targets", &plan.target_units,
                             [&](const data::WorkUnit& unit) { return labelled_work(run, unit); }, compute},
                            targets, {1, plan.sketch.width});
    auto norms = at::empty({plan.labelled()}, whole[0].options());
    norms.narrow(0, 0, targets).copy_(whole[0].view({-1}));
    if (plan.labelled() > targets)
        run.state.read(target_rows, 0, {targets, plan.labelled() - targets},
                       {norms.mutable_data_ptr<float>() + targets, plan.contrast_rows.size()});
    TargetLabels labels;
    const auto usable = usable_places(run, norms, labels);
    if (run.settings.columns == "tasks") {
        for (std::size_t task = 0; task < run.settings.targets.size(); ++task)
            labels.column_task.push_back(static_cast<std::int32_t>(task));
    } else {
        for (const auto place : labels.kept)
            labels.column_task.push_back(plan.target_task[static_cast<std::size_t>(place)]);
    }
    describe_columns(run, norms, labels);
    if (sketch)
        labels.sketches = column_sketches(run, labels, usable, whole[1], norms);
    else
        labels.directions = task_directions(run, usable, norms);
    return labels;
}

}  // namespace idistill::stages
