#include <ATen/ATen.h>

#include "block.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {

using torch::Tensor;

Tensor linear(const Tensor& x, const Linear& layer) {
    return layer.bias.defined() ? at::addmm(layer.bias, x, layer.weight.t()) : at::mm(x, layer.weight.t());
}

Linear part(const Linear& layer, std::int64_t first, std::int64_t count) {
    return {layer.weight.narrow(0, first, count), layer.bias.defined() ? layer.bias.narrow(0, first, count) : Tensor()};
}

Tensor norm_heads(const Tensor& x, const Tensor& weight, double epsilon) {
    const auto heads = x.reshape({x.size(0) * (x.size(1) / weight.size(0)), weight.size(0)});
    return rms_norm(heads, weight, epsilon).view(x.sizes());
}

Decoder::Rotation take_rotation(const Decoder::Rotation& rotation, const RowSubset& rows) {
    return {take_rows(rotation.cosine, rows), take_rows(rotation.sine, rows)};
}

Tensor block_forward(const Decoder& decoder, std::size_t b, const Tensor& x, const PackedBatch& batch,
                     const RowSubset& rows, BlockTrace* trace) {
    const auto& c = decoder.config();
    const auto& block = decoder.blocks()[b];
    const auto q_width = c.heads * c.head_dim;
    const auto kv_width = c.kv_heads * c.head_dim;
    const auto normed = rms_norm(x, block.input_norm, c.norm_epsilon);
    AttentionInput a;
    if (rows.index.defined()) {
        a.q = linear(take_rows(normed, rows), part(block.qkv, 0, q_width));
        const auto kv = linear(normed, part(block.qkv, q_width, 2 * kv_width));
        a.k = kv.narrow(1, 0, kv_width);
        a.v = kv.narrow(1, kv_width, kv_width);
    } else {
        const auto qkv = linear(normed, block.qkv);
        a.q = qkv.narrow(1, 0, q_width);
        a.k = qkv.narrow(1, q_width, kv_width);
        a.v = qkv.narrow(1, q_width + kv_width, kv_width);
    }
    if (c.query_key_norm) {
        if (trace != nullptr) trace->raw_query = a.q, trace->raw_key = a.k;
        a.q = norm_heads(a.q, block.query_norm, c.norm_epsilon);
        a.k = norm_heads(a.k, block.key_norm, c.norm_epsilon);
    }
    const auto query_rotation = take_rotation(batch.rotation, rows);
    rotate_(a.q, c.head_dim, query_rotation.cosine, query_rotation.sine);
    rotate_(a.k, c.head_dim, batch.rotation.cosine, batch.rotation.sine);
    const auto attended = attention(c, a, batch.offsets, rows);
    auto residual = linear(attended, block.output).add_(take_rows(x, rows));
    const auto gate_up = linear(rms_norm(residual, block.attention_norm, c.norm_epsilon), block.gate_up);
    auto output = linear(swiglu(gate_up), block.down).add_(residual);
    if (trace != nullptr) {
        trace->x = x;
        trace->attention = a;
        trace->attended = attended;
        trace->residual = residual;
        trace->gate_up = gate_up;
    }
    return output;
}

Tensor hidden_states(const Decoder& decoder, const PackedBatch& batch, std::int64_t blocks) {
    const auto rows = all_rows(batch);
    auto x = decoder.embedding().index_select(0, batch.tokens);
    for (std::int64_t b = 0; b < blocks; ++b)
        x = block_forward(decoder, static_cast<std::size_t>(b), x, batch, rows, nullptr);
    return rms_norm(x, decoder.final_norm(), decoder.config().norm_epsilon);
}

Tensor logits(const Decoder& decoder, const PackedBatch& batch, const RowSubset& rows) {
    return at::mm(take_rows(hidden_states(decoder, batch, decoder.config().blocks), rows), decoder.head().t());
}

}  // namespace idistill::model
