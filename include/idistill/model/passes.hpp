#pragma once
// The passes through a decoder: forward, forward with backward (taps at the linear layers), forward with tangents,
// forward and backward with tangents (Hessian-vector products). No autograd: what is kept, recomputed and skipped is
// written out.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "idistill/model/decoder.hpp"
#include "idistill/model/model_config.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::model {

/// Final-normed hidden state (T x d) behind the first `blocks` blocks.
torch::Tensor hidden_states(const Decoder& decoder, const PackedBatch& batch, std::int64_t blocks);

/// Logits (R x V) of the whole model at the given rows.
torch::Tensor logits(const Decoder& decoder, const PackedBatch& batch, const RowSubset& rows);

/// What the loss of every sample of a batch is: the mean cross entropy over its label tokens.
struct LossLabels {
    RowSubset predictors;              ///< rows whose next token is a label
    torch::Tensor labels;              ///< (R) int64 the tokens to predict
    std::vector<std::int64_t> counts;  ///< (n) label tokens of every sample
};

/// How much of a sample the gradient pass reads: up to its last predictor, as later tokens change no loss, or all of
/// it.
enum class Reach { last_predictor, last_token };

/// Samples made ready for the gradient pass. Every chosen sample must have a label.
struct LossBatch {
    PackedBatch batch;
    LossLabels labels;
    RowSubset outputs;  ///< rows at which the last block is computed: the predictors, or these and the last tokens
    torch::Tensor
        predictors;  ///< (R) int64 places of the predictors among the outputs; undefined: they are the outputs
};
LossBatch pack_with_labels(const Decoder& decoder, const data::Samples& samples,
                           const std::vector<std::int64_t>& chosen, Reach reach = Reach::last_predictor);

/// Input and output gradient of one chosen linear layer for a whole batch. The gradient of sample i's loss for this
/// layer's weight is output_gradient[r]' input[r] summed over its rows r in [offsets[i], offsets[i+1]).
struct LayerTap {
    std::size_t layer = 0;                  ///< index into the chosen layers
    torch::Tensor input;                    ///< (R x inputs)
    torch::Tensor output_gradient;          ///< (R x outputs); rows may be strided
    std::span<const std::int64_t> offsets;  ///< (n + 1)
    const Padding* padding = nullptr;       ///< of the samples, where they are computed together
};
using OnLayer = std::function<void(const LayerTap&)>;

/// Which linear layers are tapped, by block and projection.
class ChosenLayers {
public:
    enum Projection { query, key, value, output, gate, up, down, projections };

    ChosenLayers(const model::ModelConfig& config, std::vector<model::LinearLayer> layers);

    [[nodiscard]] const std::vector<model::LinearLayer>& layers() const noexcept { return layers_; }
    /// Index into layers(), or -1.
    [[nodiscard]] std::int64_t index(std::int64_t block, Projection projection) const;
    [[nodiscard]] bool any(std::int64_t block, std::initializer_list<Projection> some) const;
    [[nodiscard]] std::int64_t lowest_block() const noexcept { return lowest_block_; }

private:
    std::vector<model::LinearLayer> layers_;
    std::vector<std::int64_t> index_;  ///< (blocks x projections)
    std::int64_t lowest_block_ = 0;
};

/// Losses (n) of the samples, and on_layer for every chosen layer from the last to the first. sample_scale (n;
/// undefined: ones) multiplies each sample's gradient. Nothing below the lowest chosen layer is differentiated.
torch::Tensor loss_gradients(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                             const OnLayer& on_layer, const torch::Tensor& sample_scale = {});

/// A tap of one chosen layer for a whole batch, and how it changes with the weights along a direction. The sum of the
/// samples' gradients changes by output_gradient_tangent' input + output_gradient' input_tangent.
struct TangentTap {
    std::size_t layer = 0;                                   ///< index into the chosen layers
    torch::Tensor input, input_tangent;                      ///< (R x inputs)
    torch::Tensor output_gradient, output_gradient_tangent;  ///< (R x outputs); rows may be strided
};
using OnTangent = std::function<void(const TangentTap&)>;

/// loss_gradients taken on dual numbers (forward over reverse): exact Hessian-vector products. `directions`: one tensor
/// (outputs x inputs) a chosen layer; all other weights stay as they are.
void loss_gradient_tangents(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                            const std::vector<torch::Tensor>& directions, const OnTangent& on_layer,
                            const torch::Tensor& sample_scale = {});

/// What one gradient pass yields beside the taps.
struct LossPass {
    torch::Tensor losses;       ///< (n)
    torch::Tensor last_hidden;  ///< (n x d) final-normed hidden state at every sample's last token
};

/// The same pass over a batch packed with Reach::last_token.
LossPass loss_gradients_and_hidden(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                                   const OnLayer& on_layer);

/// Losses (n) alone.
torch::Tensor losses(const Decoder& decoder, const LossBatch& batch);

/// K directions on one stack of linear layers (q, k, v; gate, up; or one alone): low rank dW = right left' or dense.
struct LinearDirections {
    torch::Tensor right;                           ///< (inputs x parts*K*r), part-major; undefined: dense
    std::vector<std::vector<torch::Tensor>> left;  ///< [part][k] (r x outputs of the part)
    std::vector<torch::Tensor> dense;              ///< [k] (outputs x inputs)
    std::vector<torch::Tensor> bias;               ///< [k] (outputs); empty: no bias
};
struct BlockDirections {
    std::vector<torch::Tensor> input_norm, attention_norm, query_norm,
        key_norm;  ///< [k]; the last two empty without them
    LinearDirections qkv, output, gate_up, down;
};
struct Directions {
    std::int64_t count = 0;                                               ///< K
    std::function<torch::Tensor(const torch::Tensor& tokens)> embedding;  ///< tokens (T) -> tangents (K*T x d)
    std::vector<BlockDirections> blocks;                                  ///< of the first B blocks
};

/// Tangents (n x K*d, direction-major) of the final-normed hidden state at every sample's last token behind the first B
/// blocks. The last block is computed only where the last token needs it.
torch::Tensor last_token_tangents(const Decoder& decoder, const PackedBatch& batch, const Directions& directions);

}  // namespace idistill::model
