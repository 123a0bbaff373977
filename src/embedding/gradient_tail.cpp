#include <ATen/ATen.h>

#include <algorithm>

#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/sketch.hpp"
#include "rows.hpp"

namespace idistill::embedding {
namespace {

using torch::Tensor;

/// Rows of unit length; zeros stay zeros, and what is not finite stays so.
Tensor unit_rows(const Tensor& rows) {
    const auto norm = rows.norm(2, {1}, true);
    return rows / at::where(norm.eq(0), at::ones_like(norm), norm);
}

class GradientTail final : public Embedding {
public:
    GradientTail(const model::Decoder& decoder, const std::vector<config::LinearLayer>& layers,
                 const GradientTailSettings& settings)
        : decoder_(decoder),
          chosen_(decoder.config(), layers),
          sketch_(influence::make_sketch("kronecker", layers, settings.sketch_width, tail_sketch_seed(settings.seed),
                                         decoder.options())),
          states_(std::min(settings.state_width, decoder.config().hidden)),
          projection_(states_ == 0 ? Tensor()
                                   : projection(decoder.config().hidden, states_, settings.seed, decoder.options())) {}

    [[nodiscard]] std::int64_t width() const override { return states_ + sketch_->width(); }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        auto lengths = lengths_of(samples);
        for (std::size_t i = 0; i < lengths.size(); ++i)
            if (!has_labels(samples, i)) lengths[i] = 0;
        // Sums over tokens and layers need fp32 also where the model computes in bf16.
        const auto options =
            decoder_.options().dtype(at::promote_types(decoder_.options().dtype().toScalarType(), torch::kFloat32));
        return in_micro_batches(
            decoder_, lengths, width(), batch_tokens, [&](const std::vector<std::int64_t>& members) {
                const auto batch = model::pack_with_labels(decoder_, samples, members, model::Reach::last_token);
                auto sketches = at::zeros({batch.batch.samples(), sketch_->width()}, options);
                const auto pass = model::loss_gradients_and_hidden(
                    decoder_, batch, chosen_, [&](const model::LayerTap& tap) { sketch_->accumulate(tap, sketches); });
                sketches = unit_rows(sketches).to(pass.last_hidden.options());
                if (states_ == 0) return sketches;
                return at::cat({unit_rows(project(pass.last_hidden, projection_)), sketches}, 1);
            });
    }

private:
    static bool has_labels(const data::Samples& samples, std::size_t i) {
        const auto first = samples.label_mask.begin() + samples.offsets[i];
        const auto end = samples.label_mask.begin() + samples.offsets[i + 1];
        return first != end && std::find(first + 1, end, 1) != end;  // nothing predicts the first token
    }

    const model::Decoder& decoder_;
    model::ChosenLayers chosen_;
    std::unique_ptr<influence::GradientSketch> sketch_;
    std::int64_t states_;
    Tensor projection_;
};

}  // namespace

std::unique_ptr<Embedding> make_gradient_tail_embedding(const model::Decoder& decoder,
                                                        const std::vector<config::LinearLayer>& layers,
                                                        const GradientTailSettings& settings) {
    return std::make_unique<GradientTail>(decoder, layers, settings);
}

}  // namespace idistill::embedding
