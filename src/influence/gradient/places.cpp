#include "places.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "idistill/comm/say.hpp"
#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;

/// A target of which so small a share is left, in squared norm, is nothing but the contrast.
constexpr double nothing_left = 1e-6;

}  // namespace

data::Samples read_places(const Labelling& run, const std::vector<std::int64_t>& places) {
    const auto& plan = run.plan;
    const auto targets = plan.targets();
    const bool of_pool = !places.empty() && places.front() >= targets;  // no unit crosses from targets to the pool
    std::vector<std::int64_t> rows;
    rows.reserve(places.size());
    for (const auto place : places)
        rows.push_back(of_pool ? plan.contrast_rows[static_cast<std::size_t>(place - targets)]
                               : plan.target_rows[static_cast<std::size_t>(place)]);
    return of_pool ? run.pool.read(rows) : run.targets.read(rows);
}

std::vector<std::int64_t> places_in(const std::vector<std::int64_t>& places, const data::RowRange& unit) {
    const auto first = std::lower_bound(places.begin(), places.end(), unit.first);
    return {first, std::lower_bound(first, places.end(), unit.end())};
}

const Preconditioner& preconditioner_of(const Labelling& run, std::int64_t place) {
    static const Preconditioner plain;
    return place < std::ssize(run.plan.target_rows) ? plain : run.model.optimizer.preconditioner;
}

std::vector<std::int64_t> members_of(const GradientPlan& plan, const std::vector<std::int64_t>& places) {
    std::vector<std::int64_t> members(static_cast<std::size_t>(plan.tasks + 1), 0);
    for (const auto place : places) ++members[static_cast<std::size_t>(plan.task_of(place))];
    return members;
}

Tensor mean_scales(const Labelling& run, const std::vector<std::int64_t>& usable, const Tensor& norms) {
    const auto& plan = run.plan;
    const auto members = members_of(plan, usable);
    auto scales = at::zeros({norms.numel()}, norms.options());
    for (const auto place : usable) {
        const auto count = static_cast<double>(members[static_cast<std::size_t>(plan.task_of(place))]);
        const bool unit = run.cosine() || plan.task_of(place) == plan.tasks;
        scales[place] = 1.0 / count / (unit ? norms[place].item<double>() : 1.0);
    }
    return scales;
}

void take_out_contrast(const Labelling& run, const Tensor& common, std::int64_t columns, const Tensor& rows) {
    const auto product = [](const Tensor& one, const Tensor& other) {
        return product_of(one.reshape({-1}), other.reshape({-1}));
    };
    const double square = product(common, common);
    std::int64_t empty = 0;
    for (std::int64_t column = 0; square > 0 && column < rows.size(0); ++column) {
        auto row = rows.select(0, column);
        const double before = product(row, row);
        row.sub_(common, product(common, row) / square);
        if (product(row, row) > nothing_left * before) continue;
        row.zero_();
        if (column < columns) ++empty;
    }
    if (empty > 0)
        say(run.work.comm, fmt::format("warning: nothing is left of {} targets without the pool's mean gradient: their "
                                       "influences are 0. --contrast 0 keeps it.",
                                       empty));
}

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

std::vector<Tensor> directions_by_layer(const GradientModel& model, const Tensor& flat) {
    auto layers = by_layer(model, flat);
    const auto options = model::accumulating(model.decoder.options());
    for (auto& layer : layers) layer = layer.to(options, false, false, at::MemoryFormat::Contiguous);
    return layers;
}

Tensor step_constant(const Labelling& run, std::size_t layer) {
    const auto& decoder = run.model.decoder;
    const auto weight = model::weight_of(decoder, run.model.chosen.layers()[layer]);
    return run.model.optimizer.file->constant(layer, weight.cpu()).to(model::accumulating(decoder.options()));
}

}  // namespace idistill::influence
