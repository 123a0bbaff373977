#include "on_columns.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "idistill/comm/say.hpp"
#include "idistill/influence/gradient/per_sample.hpp"

namespace idistill::influence {

void say_columns(const Labelling& run, const Columns& columns) {
    auto& comm = run.work.comm;
    if (!columns.dropped.empty())
        say(comm, fmt::format("warning: {} target samples left out: their gradient is zero or not finite",
                              columns.dropped.size()));
    if (!columns.unusable.empty())
        say(comm, fmt::format("warning: {} of the {} pool samples of the contrast left out: their gradient is zero or "
                              "not finite",
                              columns.unusable.size(), run.plan.contrast_rows.size()));
    if (columns.task_error.empty()) return;
    const auto [least, most] = std::minmax_element(columns.task_error.begin(), columns.task_error.end());
    if (std::isnan(*most))
        say(comm, "note: how far a sketch of this kind errs is not known beforehand; that of --sketch tensor is");
    else if (*most > 0)
        say(comm, fmt::format("the sketch adds noise to every influence: standard deviation {:.2g} to {:.2g} by task",
                              *least, *most));
}

GradientRows rows_on_columns(const GradientModel& model, const GradientColumns& columns, const data::Samples& samples,
                             std::int64_t batch_tokens) {
    const auto& by = model.optimizer.preconditioner;
    if (!model.sketch)
        return gradient_products(model.decoder, model.chosen, columns.directions, samples, batch_tokens, by);
    auto g = gradient_sketches(model.decoder, model.chosen, *model.sketch, samples, batch_tokens, by);
    g.features = inner_products(g.features, columns.sketches.to(g.features.options())).to(g.features.dtype());
    return g;
}

torch::Tensor has_direction(const torch::Tensor& norm) {
    return at::logical_and(at::isfinite(norm), norm.gt(0)).unsqueeze(1);
}

}  // namespace idistill::influence
