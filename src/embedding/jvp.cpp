// The JVP embedding (Influence Distillation, arXiv 2505.19051, section 4.3).

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/encoder.hpp"
#include "idistill/embedding/members.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/options/option_kinds.hpp"
#include "rows.hpp"

namespace idistill::embedding {

Member jvp_member();  // listed in members.cpp

namespace {

using torch::Tensor;

class Jvp final : public Encoder {
public:
    Jvp(const model::Decoder& decoder, const JvpSettings& settings, std::int64_t width)
        : decoder_(decoder),
          directions_(random_directions(decoder, settings)),
          projection_(projection(settings.tangents * decoder.config().hidden, width, settings.seed, decoder.options())),
          width_(std::min(width, settings.tangents * decoder.config().hidden)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        const auto lengths = lengths_of(samples);
        return in_micro_batches(decoder_, lengths, width_, batch_tokens, [&](const std::vector<std::int64_t>& members) {
            const auto batch = packed(decoder_, samples, lengths, members);
            return project(model::last_token_tangents(decoder_, batch, directions_), projection_);
        });
    }

private:
    const model::Decoder& decoder_;
    model::Directions directions_;
    Tensor projection_;
    std::int64_t width_;
};

/// Bytes of random directions of all matrices (those of norms and biases are vectors).
double direction_bytes(const model::ModelConfig& config, std::int64_t blocks, const JvpOptions& jvp) {
    const auto direction = [&jvp](std::int64_t a, std::int64_t b) {
        const auto rank = static_cast<double>(jvp.rank), x = static_cast<double>(a), y = static_cast<double>(b);
        return jvp.rank == 0 ? x * y : rank * (x + y);
    };
    double numbers = direction(config.vocabulary, config.hidden);
    for (const auto& layer : model::linear_layers(config))
        if (layer.block < blocks) numbers += direction(layer.inputs, layer.outputs);
    return 4.0 * static_cast<double>(jvp.tangents) * numbers;
}

class JvpEmbedding final : public Embedding {
public:
    explicit JvpEmbedding(const options::Values& values)
        : settings_(values.of<EmbeddingSettings>()),
          jvp_(values.of<JvpOptions>()),
          run_(values.of<options::RunSettings>()) {}

    [[nodiscard]] std::string name() const override { return "jvp"; }

    void plan(model::Planner& planner) override {
        check_blocks(planner.model, settings_.jvp_blocks, "--jvp-blocks", std::to_string(settings_.jvp_blocks),
                     "Give fewer --jvp-blocks.");
        whole_ = jvp_.tangents * planner.model.hidden;
        width_ = std::min(whole_, settings_.embedding_dim);
        cost_.emplace(planner.model);
        model_ = planner.model;
        planner.plan.needs.push_back(
            {.what = "directions of the embedding",
             .per_rank = direction_bytes(planner.model, settings_.jvp_blocks, jvp_) + projection_bytes(whole_, width_),
             .remedy = jvp_.rank == 0 ? "--jvp-rank 8" : "a smaller --embedding-dim"});
    }

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] double flops(std::int64_t tokens, std::int64_t /*labels*/) const override {
        return cost_->states(static_cast<double>(tokens), settings_.jvp_blocks, jvp_.tangents, jvp_.rank) +
               projection_flops(whole_, width_);
    }
    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        return model::state_activation_bytes(model_, jvp_.tangents, largest.tokens);
    }
    void load(const model::Decoder& decoder) override {
        encoder_ = make_jvp_encoder(decoder, {settings_.jvp_blocks, jvp_.tangents, jvp_.rank, run_.seed}, width_);
    }
    [[nodiscard]] Tensor rows(const data::SampleSet& set) const override {
        return (*encoder_)(set.samples(), run_.batch_tokens).cpu();
    }

private:
    EmbeddingSettings settings_;
    JvpOptions jvp_;
    options::RunSettings run_;
    model::ModelConfig model_;
    std::int64_t whole_ = 0, width_ = 0;
    std::optional<model::PassCost> cost_;
    std::unique_ptr<Encoder> encoder_;
};

std::vector<options::Option> jvp_options() {
    const std::string group = "Propagation (from landmarks to the pool)";
    return {
        options::number_option(
            {.name = "jvp-tangents", .group = group, .value_name = "K", .help = "random directions", .of_embed = true},
            &JvpOptions::tangents, 1, 1024),
        options::number_option({.name = "jvp-rank",
                                .group = group,
                                .value_name = "R",
                                .help = "rank of the directions; 0: dense, as published, slower",
                                .of_embed = true},
                               &JvpOptions::rank, 0, 65536)};
}

}  // namespace

std::unique_ptr<Encoder> make_jvp_encoder(const model::Decoder& decoder, const JvpSettings& settings,
                                          std::int64_t width) {
    return std::make_unique<Jvp>(decoder, settings, width);
}

Member jvp_member() {
    return {.form = "jvp",
            .is_named_by = [](const std::string& text) { return text == "jvp"; },
            .make = [](const std::string& /*text*/, const options::Values& values) -> std::unique_ptr<Embedding> {
                return std::make_unique<JvpEmbedding>(values);
            },
            .of_auto = true,
            .of_blocks = true,
            .options = jvp_options};
}

}  // namespace idistill::embedding
