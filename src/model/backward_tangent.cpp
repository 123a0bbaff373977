// The gradient pass of backward.cpp on dual numbers; the two follow each other step by step.

#include <ATen/ATen.h>

#include <algorithm>

#include "dual.hpp"
#include "head.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;
using enum ChosenLayers::Projection;

/// What is kept of a block between its forward and its backward pass, as in BlockTrace.
struct DualTrace {
    Dual x, q, k, v, raw_query, raw_key, attended, residual, gate_up;
};

/// One block's weights with the directions of those that are chosen.
class DualBlock {
public:
    DualBlock(const Decoder& decoder, std::int64_t b, const ChosenLayers& chosen, const std::vector<Tensor>& directions)
        : config_(decoder.config()),
          block_(decoder.blocks()[static_cast<std::size_t>(b)]),
          chosen_(chosen),
          index_(b),
          qkv_(stacked(block_.qkv, {query, key, value}, directions)),
          output_(stacked(block_.output, {ChosenLayers::output}, directions)),
          gate_up_(stacked(block_.gate_up, {gate, up}, directions)),
          down_(stacked(block_.down, {down}, directions)) {}

    Dual forward(const Dual& x, const PackedBatch& batch, const RowSubset& rows, DualTrace& trace) const;
    /// Gradient (T x d) of the block's input from that of its output (R x d); empty where nothing below is chosen.
    Dual backward(const DualTrace& trace, const Dual& gradient, const PackedBatch& batch, const RowSubset& rows,
                  const OnTangent& on_layer, bool lower_blocks_chosen) const;

private:
    /// Directions of a stack of layers one below the other, zeros for those not chosen; undefined if none is.
    Tensor stacked(const Linear& layer, std::initializer_list<ChosenLayers::Projection> parts,
                   const std::vector<Tensor>& directions) const;
    void tap(const OnTangent& on_layer, ChosenLayers::Projection projection, const Dual& input,
             const Dual& output_gradient) const;
    [[nodiscard]] bool any(std::initializer_list<ChosenLayers::Projection> some) const {
        return chosen_.any(index_, some);
    }
    [[nodiscard]] std::int64_t query_width() const { return config_.heads * config_.head_dim; }
    [[nodiscard]] std::int64_t key_width() const { return config_.kv_heads * config_.head_dim; }
    [[nodiscard]] Dual linear_part(const Dual& x, std::int64_t first, std::int64_t count) const;
    /// The three gradients one beside the other, before norm and rotation.
    struct Gradients {
        Dual q, k, v;
    };
    Gradients qkv_gradients(const DualTrace& trace, const Dual& attended_gradient, const PackedBatch& batch,
                            const RowSubset& rows) const;
    Dual input_gradient(const DualTrace& trace, const Gradients& g, const Dual& residual_gradient,
                        const RowSubset& rows) const;

    const model::ModelConfig& config_;
    const Block& block_;
    const ChosenLayers& chosen_;
    std::int64_t index_;
    Tensor qkv_, output_, gate_up_, down_;
};

Tensor DualBlock::stacked(const Linear& layer, std::initializer_list<ChosenLayers::Projection> parts,
                          const std::vector<Tensor>& directions) const {
    if (!any(parts)) return {};
    const auto direction_of = [&](ChosenLayers::Projection part) -> const Tensor& {
        return directions[static_cast<std::size_t>(chosen_.index(index_, part))];
    };
    if (parts.size() == 1) return direction_of(*parts.begin());
    auto whole = at::zeros_like(layer.weight);
    const auto rows_of = [&](ChosenLayers::Projection part) {
        if (part == query) return query_width();
        return part == key || part == value ? key_width() : config_.intermediate;
    };
    std::int64_t row = 0;
    for (const auto part : parts) {
        if (chosen_.index(index_, part) >= 0) whole.narrow(0, row, rows_of(part)).copy_(direction_of(part));
        row += rows_of(part);
    }
    return whole;
}

void DualBlock::tap(const OnTangent& on_layer, ChosenLayers::Projection projection, const Dual& input,
                    const Dual& output_gradient) const {
    const auto layer = chosen_.index(index_, projection);
    if (layer >= 0)
        on_layer({static_cast<std::size_t>(layer), input.value, input.tangent, output_gradient.value,
                  output_gradient.tangent});
}

/// Outputs [first, first + count) of q, k, v.
Dual DualBlock::linear_part(const Dual& x, std::int64_t first, std::int64_t count) const {
    return linear(x, part(block_.qkv, first, count), qkv_.defined() ? qkv_.narrow(0, first, count) : Tensor());
}

Dual DualBlock::forward(const Dual& x, const PackedBatch& batch, const RowSubset& rows, DualTrace& trace) const {
    const auto& c = config_;
    const auto normed = rms_norm(x, block_.input_norm, c.norm_epsilon);
    Dual q, kv;
    if (rows.index.defined()) {
        q = linear_part(take_rows(normed, rows), 0, query_width());
        kv = linear_part(normed, query_width(), 2 * key_width());
    } else {
        const auto qkv = linear_part(normed, 0, query_width() + 2 * key_width());
        q = columns(qkv, 0, query_width());
        kv = columns(qkv, query_width(), 2 * key_width());
    }
    auto k = columns(kv, 0, key_width());
    const auto v = columns(kv, key_width(), key_width());
    if (c.query_key_norm) {
        trace.raw_query = q;
        trace.raw_key = k;
        q = norm_heads(q, block_.query_norm, c.norm_epsilon);
        k = norm_heads(k, block_.key_norm, c.norm_epsilon);
    }
    rotate_(q, c.head_dim, take_rotation(batch.rotation, rows));
    rotate_(k, c.head_dim, batch.rotation);
    const auto stack = [](const Dual& y) { return at::cat({y.value, y.tangent}); };
    const auto both = attention_with_tangents(c, {stack(q), stack(k), stack(v)}, batch.offsets, rows, 1);
    const Dual attended{both.narrow(0, 0, rows.rows()), both.narrow(0, rows.rows(), rows.rows())};
    const auto residual = linear(attended, block_.output, output_);
    add_(residual, take_rows(x, rows));
    const auto gate_up = linear(rms_norm(residual, block_.attention_norm, c.norm_epsilon), block_.gate_up, gate_up_);
    auto output = linear(swiglu(gate_up), block_.down, down_);
    add_(output, residual);
    trace.x = x;
    trace.q = q;
    trace.k = k;
    trace.v = v;
    trace.attended = attended;
    trace.residual = residual;
    trace.gate_up = gate_up;
    return output;
}

DualBlock::Gradients DualBlock::qkv_gradients(const DualTrace& trace, const Dual& attended_gradient,
                                              const PackedBatch& batch, const RowSubset& rows) const {
    const auto& c = config_;
    const auto both = attention_backward_tangent(c, {trace.q.value, trace.k.value, trace.v.value},
                                                 {trace.q.tangent, trace.k.tangent, trace.v.tangent}, batch.offsets,
                                                 rows, attended_gradient.value, attended_gradient.tangent);
    Gradients g{{both.value.q, both.tangent.q}, {both.value.k, both.tangent.k}, {both.value.v, both.tangent.v}};
    rotate_(g.q, c.head_dim, take_rotation(batch.rotation, rows), false);
    rotate_(g.k, c.head_dim, batch.rotation, false);
    if (c.query_key_norm) {
        g.q = norm_heads_backward(trace.raw_query, block_.query_norm, c.norm_epsilon, g.q);
        g.k = norm_heads_backward(trace.raw_key, block_.key_norm, c.norm_epsilon, g.k);
    }
    return g;
}

Dual DualBlock::input_gradient(const DualTrace& trace, const Gradients& g, const Dual& residual_gradient,
                               const RowSubset& rows) const {
    const auto part_backward = [&](const Dual& gradient, std::int64_t first) {
        const auto count = gradient.value.size(1);
        return linear_backward(gradient, block_.qkv.weight.narrow(0, first, count),
                               qkv_.defined() ? qkv_.narrow(0, first, count) : Tensor());
    };
    const auto normed_gradient = part_backward(g.k, query_width());
    add_(normed_gradient, part_backward(g.v, query_width() + key_width()));
    const auto of_queries = part_backward(g.q, 0);
    auto x_gradient = residual_gradient;
    if (rows.index.defined()) {
        normed_gradient.value.index_add_(0, rows.index, of_queries.value);
        normed_gradient.tangent.index_add_(0, rows.index, of_queries.tangent);
        x_gradient = {at::zeros_like(trace.x.value).index_copy_(0, rows.index, residual_gradient.value),
                      at::zeros_like(trace.x.value).index_copy_(0, rows.index, residual_gradient.tangent)};
    } else {
        add_(normed_gradient, of_queries);
    }
    rms_norm_backward_(x_gradient, trace.x, block_.input_norm, config_.norm_epsilon, normed_gradient);
    return x_gradient;
}

Dual DualBlock::backward(const DualTrace& trace, const Dual& gradient, const PackedBatch& batch, const RowSubset& rows,
                         const OnTangent& on_layer, bool lower_blocks_chosen) const {
    const auto& c = config_;
    if (any({down})) tap(on_layer, down, swiglu(trace.gate_up), gradient);
    if (!lower_blocks_chosen && !any({query, key, value, ChosenLayers::output, gate, up})) return {};

    const auto gate_up_gradient = swiglu_backward(trace.gate_up, linear_backward(gradient, block_.down.weight, down_));
    if (any({gate, up})) {
        const auto normed = rms_norm(trace.residual, block_.attention_norm, c.norm_epsilon);
        tap(on_layer, gate, normed, columns(gate_up_gradient, 0, c.intermediate));
        tap(on_layer, up, normed, columns(gate_up_gradient, c.intermediate, c.intermediate));
    }
    if (!lower_blocks_chosen && !any({query, key, value, ChosenLayers::output})) return {};

    const Dual residual_gradient{gradient.value.clone(), gradient.tangent.clone()};
    rms_norm_backward_(residual_gradient, trace.residual, block_.attention_norm, c.norm_epsilon,
                       linear_backward(gate_up_gradient, block_.gate_up.weight, gate_up_));
    tap(on_layer, ChosenLayers::output, trace.attended, residual_gradient);
    if (!lower_blocks_chosen && !any({query, key, value})) return {};

    const auto g = qkv_gradients(trace, linear_backward(residual_gradient, block_.output.weight, output_), batch, rows);
    if (any({query, key, value})) {
        const auto normed = rms_norm(trace.x, block_.input_norm, c.norm_epsilon);
        tap(on_layer, query, take_rows(normed, rows), g.q);
        tap(on_layer, key, normed, g.k);
        tap(on_layer, value, normed, g.v);
    }
    if (!lower_blocks_chosen) return {};
    return input_gradient(trace, g, residual_gradient, rows);
}

/// Gradient (R x d) of the losses at the final-normed hidden state of the predictors, logits in chunks.
Dual head_gradient(const Decoder& decoder, const Dual& hidden, const LossLabels& labels, const Tensor& sample_scale) {
    const auto scale = label_rows(hidden.value, labels, sample_scale).scale;
    const Dual gradient{at::empty_like(hidden.value), at::empty_like(hidden.value)};
    for_each_logit_chunk(decoder, hidden.value.size(0), [&](std::int64_t first, std::int64_t count) {
        const auto rows = [&](const Tensor& x) { return x.narrow(0, first, count); };
        auto z = at::mm(rows(hidden.value), decoder.head().t());
        auto z_tangent = at::mm(rows(hidden.tangent), decoder.head().t());
        softmax_jacobian_(z_tangent, at::softmax(z, 1), 1.0);
        z_tangent.mul_(rows(scale).unsqueeze(1));
        cross_entropy_(z, rows(labels.labels), rows(scale));
        rows(gradient.value).copy_(head_backward(decoder, z));
        rows(gradient.tangent).copy_(head_backward(decoder, z_tangent));
    });
    return gradient;
}

}  // namespace

void loss_gradient_tangents(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                            const std::vector<Tensor>& directions, const OnTangent& on_layer,
                            const Tensor& sample_scale) {
    const auto& c = decoder.config();
    const auto lowest = chosen.lowest_block();
    const auto everything = all_rows(batch.batch);
    const auto rows_of = [&](std::int64_t b) -> const RowSubset& {
        return b + 1 == c.blocks ? batch.labels.predictors : everything;
    };
    auto below = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < lowest; ++b)
        below = block_forward(decoder, static_cast<std::size_t>(b), below, batch.batch, rows_of(b), nullptr);
    Dual x{below, at::zeros_like(below)};
    std::vector<DualTrace> traces(static_cast<std::size_t>(c.blocks));
    for (auto b = lowest; b < c.blocks; ++b)
        x = DualBlock(decoder, b, chosen, directions)
                .forward(x, batch.batch, rows_of(b), traces[static_cast<std::size_t>(b)]);
    const auto hidden_gradient =
        head_gradient(decoder, rms_norm(x, decoder.final_norm(), c.norm_epsilon), batch.labels, sample_scale);
    Dual gradient{at::zeros_like(x.value), at::zeros_like(x.value)};
    rms_norm_backward_(gradient, x, decoder.final_norm(), c.norm_epsilon, hidden_gradient);
    for (auto b = c.blocks - 1; b >= lowest; --b) {
        auto& trace = traces[static_cast<std::size_t>(b)];
        gradient = DualBlock(decoder, b, chosen, directions)
                       .backward(trace, gradient, batch.batch, rows_of(b), on_layer, b > lowest);
        trace = {};
    }
}

}  // namespace idistill::model
