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

std::unique_ptr<influence::GradientSketch> sketch_of(const Run& run) {
    return influence::make_sketch(run.settings.sketch, run.model.chosen.layers(), run.inputs.plan.sketch.width,
                                  run.settings.seed, run.model.decoder.options());
}

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
    const auto kept = at::tensor(labels.kept, at::TensorOptions().dtype(torch::kInt64));
    auto rows = sketches.index_select(0, kept);
    if (run.settings.columns == "tasks") {
        const auto scales = mean_scales(run, labels, norms);
        auto means = at::zeros({static_cast<std::int64_t>(run.settings.targets.size()), rows.size(1)},
                               at::TensorOptions().dtype(torch::kFloat64));
        for (const auto place : labels.kept)
            means[run.inputs.plan.target_task[static_cast<std::size_t>(place)]].add_(
                sketches[place].to(torch::kFloat64), scales[place].item<double>());
        return means.to(torch::kFloat32);
    }
    return cosine(run) ? rows / norms.index_select(0, kept).unsqueeze(1) : rows;
}

/// Mean gradient of every task, a tensor (C x outputs x inputs) a layer: each unit's part is one row of the state,
/// added in unit order.
std::vector<Tensor> task_directions(const Run& run, const TargetLabels& labels, const Tensor& norms) {
    const auto& plan = run.inputs.plan;
    const auto scales = mean_scales(run, labels, norms);
    std::vector<data::WorkUnit> units;
    for (std::size_t i = 0; i < plan.target_units.size(); ++i)
        units.push_back({{static_cast<std::int64_t>(i), 1}, plan.target_units[i].flops});
    const auto range_of = [&](std::int64_t unit) { return plan.target_units[static_cast<std::size_t>(unit)].rows; };
    const auto tokens = [&](std::int64_t unit) {
        std::int64_t sum = 0;
        for (const auto row : slice(plan.target_rows, range_of(unit)))
            sum += run.inputs.targets.index().tokens[static_cast<std::size_t>(row)];
        return sum;
    };
    do_units(run, {direction_rows, "task gradients", &units, tokens, [&](const data::WorkUnit& unit) -> UnitColumns {
                       // Only kept targets: zero times a gradient that is not finite would spoil the sum.
                       const auto range = range_of(unit.rows.first);
                       const auto first = std::lower_bound(labels.kept.begin(), labels.kept.end(), range.first);
                       const std::vector<std::int64_t> places(first,
                                                              std::lower_bound(first, labels.kept.end(), range.end()));
                       std::vector<std::int64_t> rows;
                       rows.reserve(places.size());
                       for (const auto place : places)
                           rows.push_back(plan.target_rows[static_cast<std::size_t>(place)]);
                       const auto sums = influence::weighted_gradient_sum(
                           run.model.decoder, run.model.chosen, run.inputs.targets.read(rows),
                           scales.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))),
                           run.settings.batch_tokens);
                       std::vector<Tensor> flat;
                       flat.reserve(sums.size());
                       for (const auto& sum : sums) flat.push_back(sum.view({-1}));
                       return {at::cat(flat)};
                   }});
    const auto& layers = run.model.chosen.layers();
    std::vector<Tensor> directions;
    std::int64_t parameters = 0;
    for (const auto& layer : layers) {
        directions.push_back(
            at::zeros({labels.columns(), layer.outputs, layer.inputs}, at::TensorOptions().dtype(torch::kFloat32)));
        parameters += layer.outputs * layer.inputs;
    }
    auto row = at::empty({parameters}, at::TensorOptions().dtype(torch::kFloat32));
    for (std::int64_t unit = 0; unit < static_cast<std::int64_t>(units.size()); ++unit) {
        run.state.read(direction_rows, 0, {unit, 1},
                       {row.mutable_data_ptr<float>(), static_cast<std::size_t>(parameters)});
        const auto task = plan.target_task[static_cast<std::size_t>(range_of(unit).first)];
        std::int64_t offset = 0;
        for (std::size_t i = 0; i < layers.size(); ++i) {
            const auto size = layers[i].outputs * layers[i].inputs;
            directions[i][task].view({-1}).add_(row.narrow(0, offset, size));
            offset += size;
        }
    }
    for (auto& direction : directions) direction = direction.to(run.model.decoder.options());
    return directions;
}

}  // namespace

Tensor widen(const Tensor& influence, std::int64_t columns) {
    return at::constant_pad_nd(influence, {0, columns - influence.size(1)}, std::numeric_limits<float>::quiet_NaN());
}

ExactRows exact_rows(const Run& run, const TargetLabels& targets, const influence::GradientSketch* sketch,
                     const data::Samples& samples) {
    ExactRows rows;
    Tensor products;
    if (sketch != nullptr) {
        const auto g = influence::gradient_sketches(run.model.decoder, run.model.chosen, *sketch, samples,
                                                    run.settings.batch_tokens);
        rows.norm = g.norm;
        products = at::mm(g.features, targets.sketches.to(g.features.options()).t());
    } else {
        const auto g = influence::gradient_products(run.model.decoder, run.model.chosen, targets.directions, samples,
                                                    run.settings.batch_tokens);
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
    const auto& index = run.inputs.targets.index();
    const auto sketch = config::contracts_with_tasks(run.settings) ? nullptr : sketch_of(run);
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto samples = run.inputs.targets.read(slice(plan.target_rows, unit.rows));
        const auto g = sketch ? influence::gradient_sketches(run.model.decoder, run.model.chosen, *sketch, samples,
                                                             run.settings.batch_tokens)
                              : influence::gradient_products(run.model.decoder, run.model.chosen, no_directions(run),
                                                             samples, run.settings.batch_tokens);
        return {g.norm, g.features};
    };
    const auto tokens = [&](std::int64_t i) {
        return index.tokens[static_cast<std::size_t>(plan.target_rows[static_cast<std::size_t>(i)])];
    };
    const auto whole = do_units_and_gather(run, {target_rows, "targets", &plan.target_units, tokens, compute},
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
    if (sketch)
        labels.sketches = column_sketches(run, labels, whole[1], norms);
    else
        labels.directions = task_directions(run, labels, norms);
    return labels;
}

LandmarkLabels label_landmarks(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto& index = run.inputs.pool.index();
    const auto sketch = sketch_of(run);
    const auto embed = embedding_of(run);
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto samples = run.inputs.pool.read(slice(plan.landmarks, unit.rows));
        const auto exact = exact_rows(run, targets, sketch.get(), samples);
        return {exact.norm, widen(exact.influence, plan.columns), (*embed)(samples, run.settings.batch_tokens)};
    };
    const auto tokens = [&](std::int64_t i) {
        return index.tokens[static_cast<std::size_t>(plan.landmarks[static_cast<std::size_t>(i)])];
    };
    const auto whole =
        do_units_and_gather(run, {landmark_rows, "landmarks", &plan.landmark_units, tokens, compute},
                            static_cast<std::int64_t>(plan.landmarks.size()), {1, plan.columns, plan.embedding_width});
    LandmarkLabels labels{whole[1].narrow(1, 0, targets.columns()).contiguous(), whole[0].view({-1}), whole[2], {}};
    for (std::size_t i = 0; i < plan.landmarks.size(); ++i)
        labels.place[plan.landmarks[i]] = static_cast<std::int64_t>(i);
    return labels;
}

void compute_pool_exactly(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto& index = run.inputs.pool.index();
    const auto sketch = targets.sketches.defined() ? sketch_of(run) : nullptr;
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto rows = eligible_rows(plan, unit.rows);
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.columns}, std::numeric_limits<float>::quiet_NaN());
        if (!rows.empty()) {
            const auto exact = exact_rows(run, targets, sketch.get(), run.inputs.pool.read(rows));
            const auto place = at::tensor(rows, at::TensorOptions().dtype(torch::kInt64)) - unit.rows.first;
            norm.index_copy_(0, place, exact.norm.cpu());
            influence.index_copy_(0, place, widen(exact.influence, plan.columns).cpu());
        }
        return {norm, influence};
    };
    do_units(run, {pool_rows, "exact influence", &plan.pool_units,
                   [&](std::int64_t row) { return index.tokens[static_cast<std::size_t>(row)]; }, compute});
}

}  // namespace idistill::stages
