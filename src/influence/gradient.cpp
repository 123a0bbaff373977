#include "idistill/influence/gradient.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>

#include "idistill/data/work_unit.hpp"
#include "idistill/influence/per_sample.hpp"

namespace idistill::influence {
namespace {

using model::LayerTap;
using torch::Tensor;

using Accumulate = std::function<void(const LayerTap&, Tensor& features)>;

std::vector<std::vector<std::int64_t>> micro_batches(const data::Samples& samples, std::int64_t batch_tokens) {
    std::vector<std::int32_t> lengths;
    for (std::int64_t i = 0; i < samples.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(used_tokens(samples, i)));
    return data::pack_micro_batches(lengths, batch_tokens);
}

GradientRows gradient_rows(const model::Decoder& decoder, const model::ChosenLayers& chosen, std::int64_t width,
                           const Accumulate& accumulate, const data::Samples& samples, std::int64_t batch_tokens) {
    const auto options = decoder.options();
    GradientRows rows{at::empty({samples.size()}, options), at::empty({samples.size()}, options),
                      at::empty({samples.size(), width}, options)};
    for (const auto& members : micro_batches(samples, batch_tokens)) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        auto features = at::zeros({batch.batch.samples(), width}, options);
        std::vector<double> squared(members.size(), 0.0);
        const auto losses = model::loss_gradients(decoder, batch, chosen, [&](const LayerTap& tap) {
            accumulate(tap, features);
            accumulate_squared_norms(tap, squared);
        });
        for (auto& value : squared) value = std::sqrt(value);
        const auto index = at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(options.device());
        rows.loss.index_copy_(0, index, losses);
        rows.norm.index_copy_(0, index, at::tensor(squared, at::TensorOptions().dtype(torch::kFloat64)).to(options));
        rows.features.index_copy_(0, index, features);
    }
    return rows;
}

}  // namespace

std::int64_t used_tokens(const data::Samples& samples, std::int64_t sample) {
    const auto first = samples.offsets[static_cast<std::size_t>(sample)];
    for (auto p = samples.offsets[static_cast<std::size_t>(sample) + 1] - 1; p > first; --p)
        if (samples.label_mask[static_cast<std::size_t>(p)] != 0) return p - first;
    return 0;
}

GradientRows gradient_sketches(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const GradientSketch& sketch, const data::Samples& samples, std::int64_t batch_tokens) {
    return gradient_rows(
        decoder, chosen, sketch.width(),
        [&](const LayerTap& tap, Tensor& features) { sketch.accumulate(tap, features); }, samples, batch_tokens);
}

GradientRows gradient_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const std::vector<Tensor>& directions, const data::Samples& samples,
                               std::int64_t batch_tokens) {
    return gradient_rows(
        decoder, chosen, directions.front().size(0),
        [&](const LayerTap& tap, Tensor& features) { accumulate_contraction(tap, directions[tap.layer], features); },
        samples, batch_tokens);
}

std::vector<Tensor> weighted_gradient_sum(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                                          const data::Samples& samples, const Tensor& scale,
                                          std::int64_t batch_tokens) {
    std::vector<Tensor> sums;
    for (const auto& layer : chosen.layers())
        sums.push_back(at::zeros({layer.outputs, layer.inputs}, decoder.options()));
    for (const auto& members : micro_batches(samples, batch_tokens)) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        const auto index = at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(scale.device());
        model::loss_gradients(
            decoder, batch, chosen,
            [&](const LayerTap& tap) { sums[tap.layer].addmm_(tap.output_gradient.t(), tap.input); },
            scale.index_select(0, index));
    }
    return sums;
}

}  // namespace idistill::influence
