#pragma once
// Rows of embeddings - micro-batches, order, projection - and what the members that compute them share.

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "idistill/data/rows.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/encoder.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::embedding {

/// Runs `embed` (members of a micro-batch -> rows x width) over micro-batches of samples of these lengths and puts the
/// rows in the order of the samples: (n x width) fp32. A sample of length 0 gets zeros.
torch::Tensor in_micro_batches(const model::Decoder& decoder, const std::vector<std::int32_t>& lengths,
                               std::int64_t width, std::int64_t batch_tokens,
                               const std::function<torch::Tensor(const std::vector<std::int64_t>&)>& embed);

/// Tokens of every sample.
std::vector<std::int32_t> lengths_of(const data::Samples& samples);

/// Projection (from x to) by random signs over sqrt(to); undefined where nothing has to be projected.
torch::Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options);
torch::Tensor project(const torch::Tensor& x, const torch::Tensor& matrix);

/// Bytes of such a projection; 0 where nothing has to be projected.
inline double projection_bytes(std::int64_t from, std::int64_t to) {
    return from > to ? model::fp32_bytes * static_cast<double>(from) * static_cast<double>(to) : 0.0;
}
/// FLOPs of projecting one row.
inline double projection_flops(std::int64_t from, std::int64_t to) {
    return from > to ? 2.0 * static_cast<double>(from) * static_cast<double>(to) : 0.0;
}

/// Rows (samples x whole) of a micro-batch of whole samples.
using BatchRows = std::function<torch::Tensor(const model::PackedBatch& batch)>;

/// An encoder of whole samples, projected where `whole` numbers are more than `width`.
std::unique_ptr<Encoder> make_projected_encoder(const model::Decoder& decoder, std::int64_t whole, std::int64_t width,
                                                std::uint64_t seed, BatchRows rows);

/// At most as many blocks as the model has. Throws Error(usage) that names `option` and what was given.
void check_blocks(const model::ModelConfig& config, std::int64_t blocks, const std::string& option,
                  const std::string& given, const std::string& remedy);

/// An embedding that an encoder computes.
class Encoded : public Embedding {
public:
    [[nodiscard]] std::string name() const override { return name_; }
    [[nodiscard]] torch::Tensor rows(const data::SampleSet& set) const override {
        return (*encoder_)(set.samples(), run_.batch_tokens).cpu();
    }

protected:
    Encoded(std::string name, const options::Values& values)
        : name_(std::move(name)), settings_(values.of<EmbeddingSettings>()), run_(values.of<options::RunSettings>()) {}

    std::string name_;
    EmbeddingSettings settings_;
    options::RunSettings run_;
    model::ModelConfig model_;  ///< once it is planned, as the next
    std::optional<model::PassCost> cost_;
    std::unique_ptr<Encoder> encoder_;  ///< once it is loaded
};

/// For Member::make of an embedding that has one form.
template <class Made>
std::unique_ptr<Embedding> make_member(const std::string& /*text*/, const options::Values& values) {
    return std::make_unique<Made>(values);
}

/// One that runs through the first --jvp-blocks blocks: hidden states, or their tangents.
class FirstBlocks : public Encoded {
public:
    void plan(model::Planner& planner) override;
    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] double flops(std::int64_t tokens, std::int64_t /*labels*/) const override {
        return cost_->states(static_cast<double>(tokens), settings_.jvp_blocks, tangents_, rank_) +
               projection_flops(whole_, width_);
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return {.activations = model::state_activation_bytes(model_, tangents_, largest.tokens)};
    }

protected:
    /// `states`: how many vectors as long as a hidden state make a row; K tangents along directions of rank R.
    FirstBlocks(std::string name, const options::Values& values, std::int64_t states, std::int64_t tangents,
                std::int64_t rank)
        : Encoded(std::move(name), values), states_(states), tangents_(tangents), rank_(rank) {}

    /// What it holds all the time, for a row of `whole` numbers projected to `width`.
    [[nodiscard]] virtual plan::Need held(std::int64_t whole, std::int64_t width) const = 0;

    std::int64_t states_, tangents_, rank_;
    std::int64_t whole_ = 0, width_ = 0;  ///< numbers of a row before and after its projection
};

}  // namespace idistill::embedding
