#include "idistill/influence/gradient/passes.hpp"

#include <ATen/ATen.h>

#include <functional>

#include "idistill/data/work_unit.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::influence {
namespace {

using model::LayerTap;
using torch::Tensor;

/// Adds one layer's part of features (n x k) and squared norms (n, fp64).
using Accumulate = std::function<void(const LayerTap&, Tensor& features, Tensor& squared)>;

GradientRows gradient_rows(const model::Decoder& decoder, const model::ChosenLayers& chosen, std::int64_t width,
                           const Accumulate& accumulate, const data::Samples& samples, std::int64_t batch_tokens) {
    const auto options = model::accumulating(decoder.options());
    GradientRows rows{at::empty({samples.size()}, options), at::empty({samples.size()}, options),
                      at::empty({samples.size(), width}, options)};
    model::for_each_micro_batch(micro_batches(samples, batch_tokens), [&](const std::vector<std::int64_t>& members) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        auto features = at::zeros({batch.batch.samples(), width}, options);
        auto squared = at::zeros({batch.batch.samples()}, options.dtype(torch::kFloat64));
        const auto losses = model::loss_gradients(decoder, batch, chosen,
                                                  [&](const LayerTap& tap) { accumulate(tap, features, squared); });
        const auto index = model::on_device(members, options.device());
        rows.loss.index_copy_(0, index, losses.to(options));
        rows.norm.index_copy_(0, index, squared.sqrt().to(options));
        rows.features.index_copy_(0, index, features);
    });
    return rows;
}

/// It refers to the preconditioner.
Change change_by(const Preconditioner& preconditioner) {
    return [&preconditioner](std::size_t layer, const Tensor& gradient) { preconditioner.apply(layer, gradient); };
}

/// The rows of gradients multiplied by one number.
GradientRows times(double factor, GradientRows rows) {
    if (factor == 1.0) return rows;
    rows.norm.mul_(factor);
    rows.features.mul_(factor);
    return rows;
}

}  // namespace

std::int64_t used_tokens(const data::Samples& samples, std::int64_t sample) {
    const auto first = samples.offsets[static_cast<std::size_t>(sample)];
    for (auto p = samples.offsets[static_cast<std::size_t>(sample) + 1] - 1; p > first; --p)
        if (samples.label_mask[static_cast<std::size_t>(p)] != 0) return p - first;
    return 0;
}

std::vector<std::vector<std::int64_t>> micro_batches(const data::Samples& samples, std::int64_t batch_tokens) {
    std::vector<std::int32_t> lengths;
    for (std::int64_t i = 0; i < samples.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(used_tokens(samples, i)));
    return data::pack_micro_batches(lengths, batch_tokens);
}

GradientRows gradient_sketches(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const GradientSketch& sketch, const data::Samples& samples, std::int64_t batch_tokens,
                               const Preconditioner& preconditioner) {
    const auto plain = [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
        sketch.accumulate(tap, features);
        accumulate_squared_norms(tap, squared);
    };
    const auto changed = [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
        for_each_dense(tap, change_by(preconditioner), sketch.samples_at_once(gradient_bytes(tap)),
                       [&](std::int64_t first, const Tensor& gradients) {
                           sketch.accumulate_dense(tap.layer, gradients, features.narrow(0, first, gradients.size(0)));
                           accumulate_dense_norms(gradients, squared.narrow(0, first, gradients.size(0)));
                       });
    };
    const auto accumulate = preconditioner.elementwise() ? Accumulate(changed) : Accumulate(plain);
    return times(preconditioner.uniform,
                 gradient_rows(decoder, chosen, sketch.width(), accumulate, samples, batch_tokens));
}

SketchesAndProducts gradient_sketches_and_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                                                   const GradientSketch& sketch, const DirectionOfLayer& direction,
                                                   const data::Samples& samples, std::int64_t batch_tokens) {
    const auto width = sketch.width();
    const auto accumulate = [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
        auto sketches = features.narrow(1, 0, width);
        auto products = features.narrow(1, width, 1);
        sketch.accumulate(tap, sketches);
        accumulate_products_and_norms(tap, direction(tap.layer).unsqueeze(0), products, squared);
    };
    auto rows = gradient_rows(decoder, chosen, width + 1, accumulate, samples, batch_tokens);
    auto products = rows.features.select(1, width);
    rows.features = rows.features.narrow(1, 0, width);
    return {std::move(rows), std::move(products)};
}

GradientRows gradient_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const std::vector<Tensor>& directions, const data::Samples& samples,
                               std::int64_t batch_tokens, const Preconditioner& preconditioner) {
    const auto accumulate = [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
        if (preconditioner.elementwise())
            accumulate_changed_products_and_norms(tap, change_by(preconditioner), directions[tap.layer], features,
                                                  squared);
        else
            accumulate_products_and_norms(tap, directions[tap.layer], features, squared);
    };
    return times(preconditioner.uniform,
                 gradient_rows(decoder, chosen, directions.front().size(0), accumulate, samples, batch_tokens));
}

void add_weighted_gradients(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                            const data::Samples& samples, const Tensor& scale, std::int64_t batch_tokens,
                            std::vector<Tensor>& sums) {
    const auto scale_here = scale.to(model::accumulating(decoder.options()));
    const auto body = [&](const std::vector<std::int64_t>& members, model::Additions& additions) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        model::loss_gradients(
            decoder, batch, chosen,
            [&](const LayerTap& tap) {
                additions([&] { model::add_product_(sums[tap.layer], tap.output_gradient.t(), tap.input); });
            },
            scale_here.index_select(0, model::on_device(members, scale_here.device())));
    };
    model::add_each_micro_batch(micro_batches(samples, batch_tokens), body);
}

}  // namespace idistill::influence
