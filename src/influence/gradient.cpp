#include "idistill/influence/gradient.hpp"

#include <ATen/ATen.h>

#include <functional>

#include "idistill/data/work_unit.hpp"
#include "idistill/influence/per_sample.hpp"

namespace idistill::influence {
namespace {

using model::LayerTap;
using torch::Tensor;

/// Adds one layer's part of features (n x k) and squared norms (n, fp64).
using Accumulate = std::function<void(const LayerTap&, Tensor& features, Tensor& squared)>;

std::vector<std::vector<std::int64_t>> micro_batches(const data::Samples& samples, std::int64_t batch_tokens) {
    std::vector<std::int32_t> lengths;
    for (std::int64_t i = 0; i < samples.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(used_tokens(samples, i)));
    return data::pack_micro_batches(lengths, batch_tokens);
}

GradientRows gradient_rows(const model::Decoder& decoder, const model::ChosenLayers& chosen, std::int64_t width,
                           const Accumulate& accumulate, const data::Samples& samples, std::int64_t batch_tokens) {
    const auto device = decoder.options().device();
    // Sums over tokens and layers need fp32 also where the model computes in bf16.
    const auto options =
        decoder.options().dtype(at::promote_types(decoder.options().dtype().toScalarType(), torch::kFloat32));
    GradientRows rows{at::empty({samples.size()}, options), at::empty({samples.size()}, options),
                      at::empty({samples.size(), width}, options)};
    for (const auto& members : micro_batches(samples, batch_tokens)) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        auto features = at::zeros({batch.batch.samples(), width}, options);
        auto squared = at::zeros({batch.batch.samples()}, options.dtype(torch::kFloat64));
        const auto losses = model::loss_gradients(decoder, batch, chosen,
                                                  [&](const LayerTap& tap) { accumulate(tap, features, squared); });
        const auto index = at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(device);
        rows.loss.index_copy_(0, index, losses.to(options));
        rows.norm.index_copy_(0, index, squared.sqrt().to(options));
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
        [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
            sketch.accumulate(tap, features);
            accumulate_squared_norms(tap, squared);
        },
        samples, batch_tokens);
}

GradientRows gradient_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                               const std::vector<Tensor>& directions, const data::Samples& samples,
                               std::int64_t batch_tokens) {
    return gradient_rows(
        decoder, chosen, directions.front().size(0),
        [&](const LayerTap& tap, Tensor& features, Tensor& squared) {
            accumulate_products_and_norms(tap, directions[tap.layer], features, squared);
        },
        samples, batch_tokens);
}

void add_weighted_gradients(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                            const data::Samples& samples, const Tensor& scale, std::int64_t batch_tokens,
                            std::vector<Tensor>& sums) {
    const auto scale_here = scale.to(decoder.options());
    for (const auto& members : micro_batches(samples, batch_tokens)) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        const auto index = at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(scale_here.device());
        model::loss_gradients(
            decoder, batch, chosen,
            [&](const LayerTap& tap) { sums[tap.layer].addmm_(tap.output_gradient.t(), tap.input); },
            scale_here.index_select(0, index));
    }
}

}  // namespace idistill::influence
