#pragma once
// What passes through a model cost, from lengths alone: FLOPs that the mathematics needs (multiply and add are two),
// and bytes of activations. For planning, progress and the benchmark.

#include <cstdint>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "idistill/plan/batch.hpp"

namespace idistill::model {

inline constexpr double fp32_bytes = 4.0;  ///< bytes of a number

/// A chunk of logits has at most so many bytes, but at least so many rows: a 150k vocabulary must not decide the
/// memory.
inline constexpr std::int64_t logits_bytes = 64 << 20, logits_rows = 64;
/// On a device, whose matrix units want more rows.
inline constexpr std::int64_t device_logits_bytes = std::int64_t{1} << 30;

/// Counts matrix products only: norms, softmax, activations, rotations and look-ups are a few operations per number and
/// left out. Symbols: T tokens, n label tokens, I and O inputs and outputs of a layer, D = heads * head_dim, d hidden,
/// V vocabulary.
class PassCost {
public:
    explicit PassCost(const ModelConfig& model);

    /// Forward and backward pass for the activations' gradients; `chosen` are the layers whose gradients are wanted.
    /// `tokens`: the inputs that matter, which end before the last label (last_label of the corpus index); `labels` of
    /// them predict a label. In the last block only `outputs` rows count (k and v: all).
    ///  forward   2 r I O a layer (r: its rows, T or outputs); attention 4 D a pair of query and key; head 2 n V d
    ///  backward  the same once more for head and linear layers, attention 8 D a pair; above the lowest chosen block
    ///            whole, in it only what the chosen layers need, below it nothing
    [[nodiscard]] double passes(const std::vector<LinearLayer>& chosen, double tokens, double outputs,
                                double labels) const;

    /// Forward alone, logits at `labels` rows: as above, with `before` tokens of a prefix seen by every query. In the
    /// last block `outputs` rows count.
    [[nodiscard]] double forward(double tokens, double before, double outputs, double labels) const;

    /// Forward up to the lowest block that has a chosen layer.
    [[nodiscard]] double forward_below(const std::vector<LinearLayer>& chosen, double tokens) const;

    /// Hidden state behind the first `blocks` blocks, or with tangents those of the last token: K tangents beside the
    /// primal. A layer: 2 (1 + K) r I O, directions of rank R 2 K r R (I + O) or dense (R = 0) 2 K r I O; attention 4 D
    /// a pair and 8 D a pair and tangent; r = T, with tangents in the last block 1 (k and v: T). Directions of the
    /// token embedding 2 K T R d (dense: look-up).
    [[nodiscard]] double states(double tokens, std::int64_t blocks, std::int64_t tangents, std::int64_t rank) const;

    /// Rows of a layer's output that are computed.
    [[nodiscard]] double rows_of(const LinearLayer& layer, double tokens, double outputs) const;

private:
    ModelConfig model_;
    std::vector<LinearLayer> all_;
};

/// Entries of a layer's weight, of all layers', of the largest one.
double entries(const LinearLayer& layer);
double entries(const std::vector<LinearLayer>& layers);
double largest_entries(const std::vector<LinearLayer>& layers);

/// Numbers of the largest of all weights.
double largest_weight(const ModelConfig& model);

/// Bytes of all weights as fp32; a tied head counts once.
double weight_bytes(const ModelConfig& model);

/// Gradient pass: what every block from the lowest chosen one keeps, in the last one of `outputs` rows where that is
/// enough; the working states of one block backward; a chunk of logits.
plan::PassBytes gradient_pass_bytes(const ModelConfig& model, std::int64_t lowest_block, const plan::Batch& batch,
                                    std::int64_t outputs);

/// The same together, where all numbers are fp32.
double gradient_activation_bytes(const ModelConfig& model, std::int64_t lowest_block, const plan::Batch& batch,
                                 std::int64_t outputs);

/// States of one block for the primal and its tangents, and those that go in and out.
double state_activation_bytes(const ModelConfig& model, std::int64_t tangents, std::int64_t tokens);

}  // namespace idistill::model
