#include <ATen/ATen.h>

#include "block.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::model {

using torch::Tensor;

Tensor linear(const Tensor& x, const Linear& layer, const Tensor& /*direction*/) {
    return layer.bias.defined() ? at::addmm(layer.bias, x, layer.weight.t()) : at::mm(x, layer.weight.t());
}

Tensor linear_backward(const Tensor& gradient_y, const Tensor& weight, const Tensor& /*direction*/) {
    return at::mm(gradient_y, weight);
}

Linear part(const Linear& layer, std::int64_t first, std::int64_t count) {
    return {layer.weight.narrow(0, first, count), layer.bias.defined() ? layer.bias.narrow(0, first, count) : Tensor()};
}

Tensor norm_heads(const Tensor& x, const Tensor& weight, double epsilon) {
    return rms_norm(x.reshape({-1, weight.size(0)}), weight, epsilon).view(x.sizes());
}

Tensor norm_heads_backward(const Tensor& raw, const Tensor& weight, double epsilon, const Tensor& gradient) {
    const auto heads = raw.reshape({-1, weight.size(0)});
    auto result = at::zeros_like(heads);
    rms_norm_backward_(result, heads, weight, epsilon, gradient.reshape(heads.sizes()));
    return result.view(raw.sizes());
}

void rotate_(const Tensor& x, std::int64_t head_dim, const Decoder::Rotation& rotation, bool forward) {
    rotate_(x, head_dim, rotation.cosine, rotation.sine, forward);
}

Decoder::Rotation take_rotation(const Decoder::Rotation& rotation, const RowSubset& rows) {
    return {take_rows(rotation.cosine, rows), take_rows(rotation.sine, rows)};
}

Tensor put_rows(const Tensor& like, const Tensor& x, const RowSubset& rows) {
    return at::zeros_like(like).index_copy_(0, rows.index, x);
}

Tensor attend(const ModelConfig& config, const QueryKeyValue<Tensor>& heads, const PackedBatch& batch,
              const RowSubset& rows) {
    return attention(config, {heads.q, heads.k, heads.v}, batch, rows);
}

Tensor hidden_states(const Decoder& decoder, const PackedBatch& batch, std::int64_t blocks) {
    const auto rows = all_rows(batch);
    auto x = decoder.embedding().index_select(0, batch.tokens);
    for (std::int64_t b = 0; b < blocks; ++b) x = block_forward<Tensor>(block_of(decoder, b), x, batch, rows, nullptr);
    return rms_norm(x, decoder.final_norm(), decoder.config().norm_epsilon);
}

Tensor logits(const Decoder& decoder, const PackedBatch& batch, const RowSubset& rows) {
    return wide_mm(take_rows(hidden_states(decoder, batch, decoder.config().blocks), rows), decoder.head().t());
}

}  // namespace idistill::model
