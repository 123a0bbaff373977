#include <ATen/ATen.h>

#include "block.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;

/// 1 + K streams of `rows` rows each in one tensor: the primal, then the tangents.
class Streams {
public:
    Streams(Tensor stacked, std::int64_t tangents)
        : stacked_(std::move(stacked)), tangents_(tangents), rows_(stacked_.size(0) / (1 + tangents)) {}

    [[nodiscard]] const Tensor& stacked() const noexcept { return stacked_; }
    [[nodiscard]] Tensor primal() const { return stacked_.narrow(0, 0, rows_); }
    [[nodiscard]] Tensor tangent(std::int64_t k) const { return stacked_.narrow(0, (1 + k) * rows_, rows_); }
    [[nodiscard]] std::int64_t tangents() const noexcept { return tangents_; }
    [[nodiscard]] Streams empty_like(std::int64_t width) const {
        return {at::empty({stacked_.size(0), width}, stacked_.options()), tangents_};
    }
    /// The columns [first, first + count) of every stream.
    [[nodiscard]] Streams columns(std::int64_t first, std::int64_t count) const {
        return {stacked_.narrow(1, first, count), tangents_};
    }
    /// The given rows of every stream.
    [[nodiscard]] Streams take(const RowSubset& subset) const {
        if (!subset.index.defined()) return *this;
        auto offset = at::arange(1 + tangents_, subset.index.options()).mul_(rows_).unsqueeze(1);
        return {stacked_.index_select(0, (offset + subset.index.unsqueeze(0)).view({-1})), tangents_};
    }

private:
    Tensor stacked_;
    std::int64_t tangents_;
    std::int64_t rows_;
};

const Tensor& at_or_undefined(const std::vector<Tensor>& tensors, std::int64_t k) {
    static const Tensor undefined;
    return tensors.empty() ? undefined : tensors[static_cast<std::size_t>(k)];
}

Streams norm(const Streams& x, const Tensor& weight, double epsilon, const std::vector<Tensor>& directions) {
    auto y = x.empty_like(x.stacked().size(1));
    rms_norm(y.primal(), x.primal(), weight, epsilon);
    for (std::int64_t k = 0; k < x.tangents(); ++k)
        rms_norm_tangent(y.tangent(k), x.primal(), weight, epsilon, x.tangent(k), at_or_undefined(directions, k));
    return y;
}

/// RMS norm of every head.
Streams norm_heads(const Streams& x, const Tensor& weight, double epsilon, const std::vector<Tensor>& directions) {
    const auto head_dim = weight.size(0);
    const Streams heads(x.stacked().reshape({x.stacked().numel() / head_dim, head_dim}), x.tangents());
    return {norm(heads, weight, epsilon, directions).stacked().view({x.stacked().size(0), x.stacked().size(1)}),
            x.tangents()};
}

/// Consecutive parts of a stack of linear layers.
struct Parts {
    std::size_t first = 0;              ///< number of the first part
    std::int64_t row = 0;               ///< outputs before it
    std::vector<std::int64_t> outputs;  ///< of each part
};

/// W x for all streams in one product, + b on the primal, + dW x + db on the tangents.
Streams linear(const Streams& x, const Linear& layer, const LinearDirections& directions, const Parts& parts) {
    Streams y(at::mm(x.stacked(), layer.weight.t()), x.tangents());
    if (layer.bias.defined()) y.primal().add_(layer.bias);
    const auto input = x.primal();
    if (directions.right.defined()) {
        const auto rank = directions.left.front().front().size(0);
        const auto per_part = x.tangents() * rank;
        const auto count = static_cast<std::int64_t>(parts.outputs.size());
        const auto z = at::mm(
            input, directions.right.narrow(1, static_cast<std::int64_t>(parts.first) * per_part, count * per_part));
        for (std::int64_t k = 0; k < x.tangents(); ++k) {
            std::int64_t column = 0;
            for (std::int64_t p = 0; p < count; ++p) {
                const auto width = parts.outputs[static_cast<std::size_t>(p)];
                const auto& left =
                    directions.left[parts.first + static_cast<std::size_t>(p)][static_cast<std::size_t>(k)];
                y.tangent(k).narrow(1, column, width).addmm_(z.narrow(1, p * per_part + k * rank, rank), left);
                column += width;
            }
        }
    }
    const auto rows = layer.weight.size(0);
    for (std::int64_t k = 0; k < x.tangents(); ++k) {
        if (!directions.dense.empty())
            y.tangent(k).addmm_(input, directions.dense[static_cast<std::size_t>(k)].narrow(0, parts.row, rows).t());
        if (!directions.bias.empty())
            y.tangent(k).add_(directions.bias[static_cast<std::size_t>(k)].narrow(0, parts.row, rows));
    }
    return y;
}

void rotate_all(const Streams& x, std::int64_t head_dim, const Decoder::Rotation& rotation) {
    rotate_(x.primal(), head_dim, rotation.cosine, rotation.sine);
    for (std::int64_t k = 0; k < x.tangents(); ++k) rotate_(x.tangent(k), head_dim, rotation.cosine, rotation.sine);
}

Streams block_tangent(const Decoder& decoder, std::size_t b, const Streams& x, const BlockDirections& directions,
                      const PackedBatch& batch, const RowSubset& rows) {
    const auto& c = decoder.config();
    const auto& block = decoder.blocks()[b];
    const auto q_width = c.heads * c.head_dim;
    const auto kv_width = c.kv_heads * c.head_dim;
    const auto normed = norm(x, block.input_norm, c.norm_epsilon, directions.input_norm);
    const bool everything = !rows.index.defined();
    const auto qkv = everything ? linear(normed, block.qkv, directions.qkv, {0, 0, {q_width, kv_width, kv_width}})
                                : linear(normed, part(block.qkv, q_width, 2 * kv_width), directions.qkv,
                                         {1, q_width, {kv_width, kv_width}});
    auto q = everything ? qkv.columns(0, q_width)
                        : linear(normed.take(rows), part(block.qkv, 0, q_width), directions.qkv, {0, 0, {q_width}});
    const auto key_column = everything ? q_width : 0;
    auto k = qkv.columns(key_column, kv_width);
    const auto v = qkv.columns(key_column + kv_width, kv_width);
    if (c.query_key_norm) {
        q = norm_heads(q, block.query_norm, c.norm_epsilon, directions.query_norm);
        k = norm_heads(k, block.key_norm, c.norm_epsilon, directions.key_norm);
    }
    rotate_all(q, c.head_dim, take_rotation(batch.rotation, rows));
    rotate_all(k, c.head_dim, batch.rotation);
    const Streams attended(
        attention_with_tangents(c, {q.stacked(), k.stacked(), v.stacked()}, batch, rows, x.tangents()), x.tangents());
    const auto residual = linear(attended, block.output, directions.output, {0, 0, {c.hidden}});
    residual.stacked().add_(x.take(rows).stacked());
    const auto gate_up = linear(norm(residual, block.attention_norm, c.norm_epsilon, directions.attention_norm),
                                block.gate_up, directions.gate_up, {0, 0, {c.intermediate, c.intermediate}});
    const auto activated = gate_up.empty_like(c.intermediate);
    swiglu(activated.primal(), gate_up.primal());
    for (std::int64_t t = 0; t < x.tangents(); ++t)
        swiglu_tangent(activated.tangent(t), gate_up.primal(), gate_up.tangent(t));
    auto output = linear(activated, block.down, directions.down, {0, 0, {c.hidden}});
    output.stacked().add_(residual.stacked());
    return output;
}

}  // namespace

Tensor last_token_tangents(const Decoder& decoder, const PackedBatch& batch, const Directions& directions) {
    const auto& c = decoder.config();
    const auto everything = all_rows(batch);
    const auto last = last_rows(batch);
    Streams x(at::cat({decoder.embedding().index_select(0, batch.tokens), directions.embedding(batch.tokens)}),
              directions.count);
    for (std::size_t b = 0; b < directions.blocks.size(); ++b)
        x = block_tangent(decoder, b, x, directions.blocks[b], batch,
                          b + 1 == directions.blocks.size() ? last : everything);
    const auto final = norm(x, decoder.final_norm(), c.norm_epsilon, {});
    return final.stacked()
        .narrow(0, batch.samples(), directions.count * batch.samples())
        .view({directions.count, batch.samples(), c.hidden})
        .permute({1, 0, 2})
        .reshape({batch.samples(), directions.count * c.hidden});
}

}  // namespace idistill::model
