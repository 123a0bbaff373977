// The gradient pass of backward.cpp on dual numbers.

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "dual.hpp"
#include "head.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;
using enum ChosenLayers::Projection;

/// The block with the directions of those of its layers that are chosen.
DirectedBlock directed(const Decoder& decoder, std::int64_t b, const ChosenLayers& chosen,
                       const std::vector<Tensor>& directions) {
    auto block = block_of(decoder, b);
    const auto direction_of = [&](ChosenLayers::Projection part) -> const Tensor& {
        return directions[static_cast<std::size_t>(chosen.index(b, part))];
    };
    // Of a stack of layers one below the other, zeros for those not chosen; undefined if none is.
    const auto stacked = [&](const Linear& layer,
                             const std::vector<std::pair<ChosenLayers::Projection, std::int64_t>>& parts) {
        Tensor whole;
        std::int64_t row = 0;
        for (const auto& [part, rows] : parts) {
            if (chosen.index(b, part) >= 0) {
                if (!whole.defined()) whole = at::zeros_like(layer.weight);
                whole.narrow(0, row, rows).copy_(direction_of(part));
            }
            row += rows;
        }
        return whole;
    };
    const auto& w = block.weights;
    const auto key_width = block.key_width(), width = block.config.intermediate;
    block.qkv = stacked(w.qkv, {{query, block.query_width()}, {key, key_width}, {value, key_width}});
    block.gate_up = stacked(w.gate_up, {{gate, width}, {up, width}});
    if (chosen.any(b, {output})) block.output = direction_of(output);
    if (chosen.any(b, {down})) block.down = direction_of(down);
    return block;
}

/// Gradient (R x d) of the losses at the final-normed hidden state of the predictors, logits in chunks.
Dual head_gradient(const Decoder& decoder, const Dual& hidden, const LossLabels& labels, const Tensor& sample_scale) {
    const auto scale = label_rows(hidden.value, labels, sample_scale).scale;
    const Dual gradient{at::empty_like(hidden.value), at::empty_like(hidden.value)};
    for_each_logit_chunk(decoder, hidden.value.size(0), [&](std::int64_t first, std::int64_t count) {
        const auto rows = [&](const Tensor& x) { return x.narrow(0, first, count); };
        auto z = head_forward(decoder, rows(hidden.value));
        auto z_tangent = head_forward(decoder, rows(hidden.tangent));
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
        below = block_forward<Tensor>(block_of(decoder, b), below, batch.batch, rows_of(b), nullptr);
    Dual x{below, at::zeros_like(below)};
    std::vector<BlockTrace<Dual>> traces(static_cast<std::size_t>(c.blocks));
    for (auto b = lowest; b < c.blocks; ++b)
        x = block_forward(directed(decoder, b, chosen, directions), x, batch.batch, rows_of(b),
                          &traces[static_cast<std::size_t>(b)]);
    const auto hidden_gradient =
        head_gradient(decoder, rms_norm(x, decoder.final_norm(), c.norm_epsilon), batch.labels, sample_scale);
    Dual gradient{at::zeros_like(x.value), at::zeros_like(x.value)};
    rms_norm_backward_(gradient, x, decoder.final_norm(), c.norm_epsilon, hidden_gradient);
    const auto tap = [&on_layer](std::size_t layer, const Dual& input, const Dual& output_gradient,
                                 const SampleRows& /*rows*/) {
        on_layer({layer, input.value, input.tangent, output_gradient.value, output_gradient.tangent});
    };
    for (auto b = c.blocks - 1; b >= lowest; --b) {
        auto& trace = traces[static_cast<std::size_t>(b)];
        const BlockTaps<Dual> taps{chosen, b, tap};
        gradient = block_backward(directed(decoder, b, chosen, directions), trace, gradient, batch.batch, rows_of(b),
                                  taps, b > lowest);
        trace = {};
    }
}

}  // namespace idistill::model
