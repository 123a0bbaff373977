// Hidden states of the first blocks: the cheapest embedding.

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/encoder.hpp"
#include "idistill/embedding/members.hpp"
#include "idistill/model/cost.hpp"
#include "rows.hpp"

namespace idistill::embedding {

Member hidden_member();  // listed in members.cpp

namespace {

using torch::Tensor;

class Hidden final : public Encoder {
public:
    Hidden(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed, std::int64_t width)
        : decoder_(decoder),
          blocks_(blocks),
          projection_(projection(2 * decoder.config().hidden, width, seed, decoder.options())),
          width_(std::min(width, 2 * decoder.config().hidden)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        const auto lengths = lengths_of(samples);
        return in_micro_batches(decoder_, lengths, width_, batch_tokens, [&](const std::vector<std::int64_t>& members) {
            const auto batch = packed(decoder_, samples, lengths, members);
            const auto hidden = model::hidden_states(decoder_, batch, blocks_);
            std::vector<Tensor> rows;
            for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
                const auto own = hidden.narrow(0, batch.offsets[i], batch.offsets[i + 1] - batch.offsets[i]);
                rows.push_back(at::cat({own.mean(0), own.select(0, own.size(0) - 1)}));
            }
            return project(at::stack(rows), projection_);
        });
    }

private:
    const model::Decoder& decoder_;
    std::int64_t blocks_;
    Tensor projection_;
    std::int64_t width_;
};

class HiddenEmbedding final : public Embedding {
public:
    explicit HiddenEmbedding(const options::Values& values)
        : settings_(values.of<EmbeddingSettings>()), run_(values.of<options::RunSettings>()) {}

    [[nodiscard]] std::string name() const override { return "hidden"; }

    void plan(model::Planner& planner) override {
        check_blocks(planner.model, settings_.jvp_blocks, "--jvp-blocks", std::to_string(settings_.jvp_blocks),
                     "Give fewer --jvp-blocks.");
        whole_ = 2 * planner.model.hidden;
        width_ = std::min(whole_, settings_.embedding_dim);
        cost_.emplace(planner.model);
        model_ = planner.model;
        if (whole_ > width_)
            planner.plan.needs.push_back({.what = "projection of the hidden states",
                                          .per_rank = projection_bytes(whole_, width_),
                                          .remedy = "a smaller --embedding-dim"});
    }

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] double flops(std::int64_t tokens, std::int64_t /*labels*/) const override {
        return cost_->states(static_cast<double>(tokens), settings_.jvp_blocks, 0, 0) +
               projection_flops(whole_, width_);
    }
    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        return model::state_activation_bytes(model_, 0, largest.tokens);
    }
    void load(const model::Decoder& decoder) override {
        encoder_ = make_hidden_encoder(decoder, settings_.jvp_blocks, run_.seed, width_);
    }
    [[nodiscard]] Tensor rows(const data::SampleSet& set) const override {
        return (*encoder_)(set.samples(), run_.batch_tokens).cpu();
    }

private:
    EmbeddingSettings settings_;
    options::RunSettings run_;
    model::ModelConfig model_;
    std::int64_t whole_ = 0, width_ = 0;
    std::optional<model::PassCost> cost_;
    std::unique_ptr<Encoder> encoder_;
};

}  // namespace

std::unique_ptr<Encoder> make_hidden_encoder(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed,
                                             std::int64_t width) {
    return std::make_unique<Hidden>(decoder, blocks, seed, width);
}

Member hidden_member() {
    return {.form = "hidden",
            .is_named_by = [](const std::string& text) { return text == "hidden"; },
            .make = [](const std::string& /*text*/, const options::Values& values) -> std::unique_ptr<Embedding> {
                return std::make_unique<HiddenEmbedding>(values);
            },
            .of_auto = true,
            .of_blocks = true};
}

}  // namespace idistill::embedding
