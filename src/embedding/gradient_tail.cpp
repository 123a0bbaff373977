// Gradients of the last blocks, or of all of them, as an embedding.

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"
#include "idistill/embedding/members.hpp"
#include "idistill/influence/gradient/cost.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/model/precision.hpp"
#include "rows.hpp"

namespace idistill::embedding {

// Listed in members.cpp.
Member gradient_tail_member();
Member gradient_member();

namespace {

using torch::Tensor;

/// Rows of unit length; zeros stay zeros, and what is not finite stays so.
Tensor of_length_one(const Tensor& rows) {
    const auto norm = rows.norm(2, {1}, true);
    return rows / at::where(norm.eq(0), at::ones_like(norm), norm);
}

class GradientTail final : public Encoder {
public:
    GradientTail(const model::Decoder& decoder, const std::vector<model::LinearLayer>& layers,
                 const GradientTailSettings& settings)
        : decoder_(decoder),
          chosen_(decoder.config(), layers),
          sketch_(influence::make_sketch(influence::SketchKind::tensor, layers, settings.sketch_width,
                                         tail_sketch_seed(settings.seed), decoder.options())),
          states_(std::min(settings.state_width, decoder.config().hidden)),
          projection_(states_ == 0 ? Tensor()
                                   : projection(decoder.config().hidden, states_, settings.seed,
                                                model::accumulating(decoder.options()))) {}

    [[nodiscard]] std::int64_t width() const override { return states_ + sketch_->width(); }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        auto lengths = lengths_of(samples);
        for (std::size_t i = 0; i < lengths.size(); ++i)
            if (!has_labels(samples, i)) lengths[i] = 0;
        const auto options = model::accumulating(decoder_.options());
        return in_micro_batches(
            decoder_, lengths, width(), batch_tokens, [&](const std::vector<std::int64_t>& members) {
                const auto batch = model::pack_with_labels(decoder_, samples, members, model::Reach::last_token);
                auto sketches = at::zeros({batch.batch.samples(), sketch_->width()}, options);
                const auto pass = model::loss_gradients_and_hidden(
                    decoder_, batch, chosen_, [&](const model::LayerTap& tap) { sketch_->accumulate(tap, sketches); });
                sketches = of_length_one(sketches);
                if (states_ == 0) return sketches;
                return at::cat({of_length_one(project(pass.last_hidden, projection_)), sketches}, 1);
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

const std::string tail_prefix = "gradient-tail:";

/// M of gradient-tail:M; nothing for another text.
std::optional<std::int64_t> tail_blocks(const std::string& text) {
    if (!text.starts_with(tail_prefix)) return std::nullopt;
    const auto blocks = whole<std::int64_t>(text.substr(tail_prefix.size()));
    return blocks && *blocks >= 1 ? blocks : std::nullopt;
}

/// gradient-tail:M, and without M (every block, no hidden state) gradient.
class GradientTailEmbedding final : public Encoded {
public:
    GradientTailEmbedding(std::string name, const options::Values& values)
        : Encoded(std::move(name), values),
          tail_(tail_blocks(name_)),
          parameters_(values.of<influence::GradientSettings>().parameters) {}

    void plan(model::Planner& planner) override {
        const auto& config = planner.model;
        if (tail_) check_blocks(config, *tail_, "--embedding", name_, "Give fewer blocks behind " + tail_prefix + ".");
        hidden_ = tail_ ? config.hidden : 0;
        if (tail_) states_ = std::min(config.hidden, std::max<std::int64_t>(1, settings_.embedding_dim / 2));
        for (const auto& layer : model::chosen_layers(config, parameters_))
            if (!tail_ || layer.block >= config.blocks - *tail_) layers_.push_back(layer);
        check_layers(config);
        sketch_ = influence::tensor_shape(settings_.embedding_dim - states_, layers_);
        cost_.emplace(config);
        model_ = config;
        double numbers = 0.0;
        for (const auto& layer : layers_)
            numbers += influence::tensor_map_numbers * static_cast<double>(layer.inputs + layer.outputs);
        planner.plan.needs.push_back({.what = "sketch of the embedding",
                                      .per_rank = model::fp32_bytes * numbers + projection_bytes(hidden_, states_),
                                      .remedy = "a smaller --embedding-dim",
                                      .on_gpu = true});
    }

    [[nodiscard]] std::int64_t width() const override { return states_ + sketch_.width; }

    /// The gradient pass over all tokens with a tensor sketch, without norms; in the last block one row more, the
    /// last token's.
    [[nodiscard]] double flops(std::int64_t tokens, std::int64_t labels) const override {
        const auto count = static_cast<double>(tokens), predicted = static_cast<double>(labels);
        const double outputs = predicted + 1.0;
        double flops = cost_->passes(layers_, count, outputs, predicted) + projection_flops(hidden_, states_);
        for (const auto& layer : layers_)
            flops += influence::tensor_flops(layer, cost_->rows_of(layer, count, outputs),
                                             static_cast<double>(sketch_.length));
        return flops;
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return model::gradient_pass_bytes(model_, layers_.front().block, largest, largest.labels + largest.samples);
    }
    void load(const model::Decoder& decoder) override {
        encoder_ = make_gradient_tail_encoder(decoder, layers_, {states_, sketch_.width, run_.seed});
    }

private:
    void check_layers(const model::ModelConfig& config) const {
        if (layers_.empty())
            throw Error(ExitCode::usage, {"--embedding", name_, "a layer of --parameters in the last blocks",
                                          "none of " + in_quotes(parameters_),
                                          "Give more blocks, or --parameters that name layers of the last ones."});
        const auto layers = std::ssize(layers_);
        if (settings_.embedding_dim - states_ >= layers) return;
        const auto least = tail_ ? std::min(2 * layers, config.hidden + layers) : layers;
        throw Error(ExitCode::usage,
                    {"--embedding-dim", name_,
                     "at least " + std::to_string(least) + ", with one number for each of " + std::to_string(layers) +
                         " layers",
                     std::to_string(settings_.embedding_dim), "Give a larger --embedding-dim, or fewer layers."});
    }

    std::optional<std::int64_t> tail_;
    std::string parameters_;
    std::int64_t hidden_ = 0, states_ = 0;  ///< numbers of the hidden state, before and after its projection
    std::vector<model::LinearLayer> layers_;
    influence::SketchShape sketch_;
};

std::unique_ptr<Embedding> make(const std::string& text, const options::Values& values) {
    return std::make_unique<GradientTailEmbedding>(text, values);
}

}  // namespace

std::unique_ptr<Encoder> make_gradient_tail_encoder(const model::Decoder& decoder,
                                                    const std::vector<model::LinearLayer>& layers,
                                                    const GradientTailSettings& settings) {
    return std::make_unique<GradientTail>(decoder, layers, settings);
}

Member gradient_tail_member() {
    return {.form = "gradient-tail:M",
            .form_says = " with M of at least 1",
            .example = "gradient-tail:1",
            .help = "last hidden state and gradients of --parameters in the last M blocks, dearer",
            .is_named_by = [](const std::string& text) { return tail_blocks(text).has_value(); },
            .make = make,
            .of_gradients = true};
}
Member gradient_member() {
    return {.form = "gradient",
            .help = "of all --parameters, dearest",
            .make = make,
            .of_run = false,
            .of_gradients = true};
}

}  // namespace idistill::embedding
