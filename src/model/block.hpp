#pragma once
// One block of the decoder, forward and backward, over numbers X: tensors, or dual numbers (dual.hpp), which give the
// same with derivatives along directions in the weights. Every step that a block takes is a function of both.

#include <torch/types.h>

#include <functional>
#include <initializer_list>
#include <vector>

#include "attention.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/packed_batch.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {

// --- steps on tensors; directions are for dual numbers ---------------------------------------------------------------

/// x weight' + bias.
torch::Tensor linear(const torch::Tensor& x, const Linear& layer, const torch::Tensor& direction = {});
/// Gradient of the input from that of the output.
torch::Tensor linear_backward(const torch::Tensor& gradient_y, const torch::Tensor& weight,
                              const torch::Tensor& direction);
/// The part of a stacked layer that makes outputs [first, first + count).
Linear part(const Linear& layer, std::int64_t first, std::int64_t count);
/// RMS norm of every head of x (rows x heads head_dim; rows may be strided), contiguous.
torch::Tensor norm_heads(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
/// A gradient (strided rows x heads head_dim) through it.
torch::Tensor norm_heads_backward(const torch::Tensor& raw, const torch::Tensor& weight, double epsilon,
                                  const torch::Tensor& gradient);
void rotate_(const torch::Tensor& x, std::int64_t head_dim, const Decoder::Rotation& rotation, bool forward = true);
/// Rotation at the rows of a subset.
Decoder::Rotation take_rotation(const Decoder::Rotation& rotation, const RowSubset& rows);

/// Columns [first, first + count).
inline torch::Tensor columns(const torch::Tensor& x, std::int64_t first, std::int64_t count) {
    return x.narrow(1, first, count);
}
inline torch::Tensor copied(const torch::Tensor& x) { return x.clone(); }
/// x += y.
inline void add_(const torch::Tensor& x, const torch::Tensor& y) { x.add_(y); }
/// `x` at the rows of the subset, zeros at the others of (T x ...) `like`.
torch::Tensor put_rows(const torch::Tensor& like, const torch::Tensor& x, const RowSubset& rows);

// --- a block ---------------------------------------------------------------------------------------------------------

/// A block's weights, and directions of its stacks of linear layers (undefined: none).
struct DirectedBlock {
    const ModelConfig& config;
    const Block& weights;
    torch::Tensor qkv = {}, output = {}, gate_up = {}, down = {};

    [[nodiscard]] std::int64_t query_width() const { return config.heads * config.head_dim; }
    [[nodiscard]] std::int64_t key_width() const { return config.kv_heads * config.head_dim; }
    /// Directions of outputs [first, first + count) of q, k, v.
    [[nodiscard]] torch::Tensor qkv_part(std::int64_t first, std::int64_t count) const {
        return qkv.defined() ? qkv.narrow(0, first, count) : torch::Tensor();
    }
};

/// q (R x heads head_dim) at the subset's rows, k and v (T x kv_heads head_dim), or their gradients.
template <class X>
struct QueryKeyValue {
    X q, k, v;
};

/// What is kept of a block between its forward and its backward pass. Norms, activations and scores are recomputed.
template <class X>
struct BlockTrace {
    X x;                     ///< (T x d) input
    QueryKeyValue<X> heads;  ///< normed and rotated
    X raw_query, raw_key;    ///< before their norm (Qwen3 only)
    X attended;              ///< (R x heads head_dim)
    X residual;              ///< (R x d) behind the attention
    X gate_up;               ///< (R x 2F)
};

torch::Tensor attend(const ModelConfig& config, const QueryKeyValue<torch::Tensor>& heads, const PackedBatch& batch,
                     const RowSubset& rows);
QueryKeyValue<torch::Tensor> attend_backward(const ModelConfig& config, const QueryKeyValue<torch::Tensor>& heads,
                                             const PackedBatch& batch, const RowSubset& rows,
                                             const torch::Tensor& gradient);
/// Gradient (T x d) of the normed input from those of q, k, v before norm and rotation.
torch::Tensor qkv_backward(const DirectedBlock& block, const QueryKeyValue<torch::Tensor>& gradients,
                           const RowSubset& rows);

/// Hands the taps of one block to the caller.
template <class X>
struct BlockTaps {
    const ChosenLayers& chosen;
    std::int64_t block;
    /// (index of the chosen layer, input, output gradient, whose their rows are)
    std::function<void(std::size_t, const X&, const X&, const SampleRows&)> on_layer;

    void operator()(ChosenLayers::Projection projection, const X& input, const X& output_gradient,
                    const SampleRows& rows) const {
        const auto index = chosen.index(block, projection);
        if (index >= 0) on_layer(static_cast<std::size_t>(index), input, output_gradient, rows);
    }
    [[nodiscard]] bool any(std::initializer_list<ChosenLayers::Projection> some) const {
        return chosen.any(block, some);
    }
};

/// Output (R x d) of the block at the rows of the subset; fills `trace` if given. `batch`: a PackedBatch, or what else
/// has a rotation and an attend() of its own.
template <class X, class Batch>
X block_forward(const DirectedBlock& block, const X& x, const Batch& batch, const RowSubset& rows,
                BlockTrace<X>* trace) {
    const auto& c = block.config;
    const auto& w = block.weights;
    const auto q_width = block.query_width(), kv_width = block.key_width();
    const auto linear_part = [&block, &w](const X& input, std::int64_t first, std::int64_t count) {
        return linear(input, part(w.qkv, first, count), block.qkv_part(first, count));
    };
    const auto normed = rms_norm(x, w.input_norm, c.norm_epsilon);
    QueryKeyValue<X> a;
    X kv;
    if (rows.index.defined()) {
        a.q = linear_part(take_rows(normed, rows), 0, q_width);
        kv = linear_part(normed, q_width, 2 * kv_width);
    } else {
        const auto qkv = linear_part(normed, 0, q_width + 2 * kv_width);
        a.q = columns(qkv, 0, q_width);
        kv = columns(qkv, q_width, 2 * kv_width);
    }
    a.k = columns(kv, 0, kv_width);
    a.v = columns(kv, kv_width, kv_width);
    if (c.query_key_norm) {
        if (trace != nullptr) trace->raw_query = a.q, trace->raw_key = a.k;
        a.q = norm_heads(a.q, w.query_norm, c.norm_epsilon);
        a.k = norm_heads(a.k, w.key_norm, c.norm_epsilon);
    }
    rotate_(a.q, c.head_dim, take_rotation(batch.rotation, rows));
    rotate_(a.k, c.head_dim, batch.rotation);
    const auto attended = attend(c, a, batch, rows);
    const auto residual = linear(attended, w.output, block.output);
    add_(residual, take_rows(x, rows));
    const auto gate_up = linear(rms_norm(residual, w.attention_norm, c.norm_epsilon), w.gate_up, block.gate_up);
    const auto output = linear(swiglu(gate_up), w.down, block.down);
    add_(output, residual);
    if (trace != nullptr) {
        trace->x = x;
        trace->heads = a;
        trace->attended = attended;
        trace->residual = residual;
        trace->gate_up = gate_up;
    }
    return output;
}

/// Gradients of the block's q, k, v outputs (before norm and rotation).
template <class X>
QueryKeyValue<X> qkv_gradients(const DirectedBlock& block, const BlockTrace<X>& trace, const PackedBatch& batch,
                               const RowSubset& rows, const X& attended_gradient) {
    const auto& c = block.config;
    auto g = attend_backward(c, trace.heads, batch, rows, attended_gradient);
    rotate_(g.q, c.head_dim, take_rotation(batch.rotation, rows), false);
    rotate_(g.k, c.head_dim, batch.rotation, false);
    if (c.query_key_norm) {
        g.q = norm_heads_backward(trace.raw_query, block.weights.query_norm, c.norm_epsilon, g.q);
        g.k = norm_heads_backward(trace.raw_key, block.weights.key_norm, c.norm_epsilon, g.k);
    }
    return g;
}

/// Gradient (T x d) of the block's input from that of its output (R x d); undefined where nothing below is chosen.
template <class X>
X block_backward(const DirectedBlock& block, const BlockTrace<X>& trace, const X& gradient, const PackedBatch& batch,
                 const RowSubset& rows, const BlockTaps<X>& taps, bool lower_blocks_chosen) {
    using enum ChosenLayers::Projection;
    const auto& c = block.config;
    const auto& w = block.weights;
    if (taps.any({down})) taps(down, swiglu(trace.gate_up), gradient, rows);
    if (!lower_blocks_chosen && !taps.any({query, key, value, output, gate, up})) return {};

    const auto gate_up_gradient = swiglu_backward(trace.gate_up, linear_backward(gradient, w.down.weight, block.down));
    if (taps.any({gate, up})) {
        const auto normed = rms_norm(trace.residual, w.attention_norm, c.norm_epsilon);
        taps(gate, normed, columns(gate_up_gradient, 0, c.intermediate), rows);
        taps(up, normed, columns(gate_up_gradient, c.intermediate, c.intermediate), rows);
    }
    if (!lower_blocks_chosen && !taps.any({query, key, value, output})) return {};

    auto residual_gradient = copied(gradient);
    rms_norm_backward_(residual_gradient, trace.residual, w.attention_norm, c.norm_epsilon,
                       linear_backward(gate_up_gradient, w.gate_up.weight, block.gate_up));
    taps(output, trace.attended, residual_gradient, rows);
    if (!lower_blocks_chosen && !taps.any({query, key, value})) return {};

    const auto g =
        qkv_gradients(block, trace, batch, rows, linear_backward(residual_gradient, w.output.weight, block.output));
    if (taps.any({query, key, value})) {
        const auto normed = rms_norm(trace.x, w.input_norm, c.norm_epsilon);
        taps(query, take_rows(normed, rows), g.q, rows);
        taps(key, normed, g.k, batch);
        taps(value, normed, g.v, batch);
    }
    if (!lower_blocks_chosen) return {};

    const auto normed_gradient = qkv_backward(block, g, rows);
    auto x_gradient = rows.index.defined() ? put_rows(trace.x, residual_gradient, rows) : residual_gradient;
    rms_norm_backward_(x_gradient, trace.x, w.input_norm, c.norm_epsilon, normed_gradient);
    return x_gradient;
}

/// Block `b` of the decoder on tensors.
inline DirectedBlock block_of(const Decoder& decoder, std::int64_t b) {
    return {decoder.config(), decoder.blocks()[static_cast<std::size_t>(b)]};
}

}  // namespace idistill::model
