#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "block.hpp"
#include "head.hpp"
#include "idistill/base/error.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;
using enum ChosenLayers::Projection;

/// Hands the taps of one block to the caller.
class BlockTaps {
public:
    BlockTaps(const ChosenLayers& chosen, std::int64_t block, const OnLayer& on_layer)
        : chosen_(chosen), block_(block), on_layer_(on_layer) {}

    void operator()(ChosenLayers::Projection projection, const Tensor& input, const Tensor& output_gradient,
                    const std::vector<std::int64_t>& offsets) const {
        const auto index = chosen_.index(block_, projection);
        if (index >= 0) on_layer_({static_cast<std::size_t>(index), input, output_gradient, offsets});
    }
    [[nodiscard]] bool any(std::initializer_list<ChosenLayers::Projection> some) const {
        return chosen_.any(block_, some);
    }

private:
    const ChosenLayers& chosen_;
    std::int64_t block_;
    const OnLayer& on_layer_;
};

/// gradient (strided rows x heads head_dim) through the RMS norm of every head.
Tensor norm_heads_backward(const Tensor& raw, const Tensor& weight, double epsilon, const Tensor& gradient) {
    const auto heads = raw.reshape({raw.size(0) * (raw.size(1) / weight.size(0)), weight.size(0)});
    auto result = at::zeros_like(heads);
    rms_norm_backward_(result, heads, weight, epsilon, gradient.reshape(heads.sizes()));
    return result.view(raw.sizes());
}

/// Gradients of the block's q, k, v outputs (before norm and rotation).
AttentionInput qkv_gradients(const Decoder& decoder, std::size_t b, const BlockTrace& trace, const PackedBatch& batch,
                             const RowSubset& rows, const Tensor& attended_gradient) {
    const auto& c = decoder.config();
    const auto& block = decoder.blocks()[b];
    auto g = attention_backward(c, trace.attention, batch.offsets, rows, attended_gradient);
    const auto query_rotation = take_rotation(batch.rotation, rows);
    rotate_(g.q, c.head_dim, query_rotation.cosine, query_rotation.sine, false);
    rotate_(g.k, c.head_dim, batch.rotation.cosine, batch.rotation.sine, false);
    if (c.query_key_norm) {
        g.q = norm_heads_backward(trace.raw_query, block.query_norm, c.norm_epsilon, g.q);
        g.k = norm_heads_backward(trace.raw_key, block.key_norm, c.norm_epsilon, g.k);
    }
    return g;
}

/// Gradient (T x d) of the block's input from that of its output (R x d); undefined where nothing below is chosen.
Tensor block_backward(const Decoder& decoder, std::size_t b, const BlockTrace& trace, const Tensor& gradient,
                      const PackedBatch& batch, const RowSubset& rows, const BlockTaps& taps,
                      bool lower_blocks_chosen) {
    const auto& c = decoder.config();
    const auto& block = decoder.blocks()[b];
    if (taps.any({down})) taps(down, swiglu(trace.gate_up), gradient, rows.offsets);
    if (!lower_blocks_chosen && !taps.any({query, key, value, output, gate, up})) return {};

    const auto gate_up_gradient = swiglu_backward(trace.gate_up, at::mm(gradient, block.down.weight));
    if (taps.any({gate, up})) {
        const auto normed = rms_norm(trace.residual, block.attention_norm, c.norm_epsilon);
        taps(gate, normed, gate_up_gradient.narrow(1, 0, c.intermediate), rows.offsets);
        taps(up, normed, gate_up_gradient.narrow(1, c.intermediate, c.intermediate), rows.offsets);
    }
    if (!lower_blocks_chosen && !taps.any({query, key, value, output})) return {};

    auto residual_gradient = gradient.clone();
    rms_norm_backward_(residual_gradient, trace.residual, block.attention_norm, c.norm_epsilon,
                       at::mm(gate_up_gradient, block.gate_up.weight));
    taps(output, trace.attended, residual_gradient, rows.offsets);
    if (!lower_blocks_chosen && !taps.any({query, key, value})) return {};

    const auto g = qkv_gradients(decoder, b, trace, batch, rows, at::mm(residual_gradient, block.output.weight));
    if (taps.any({query, key, value})) {
        const auto normed = rms_norm(trace.x, block.input_norm, c.norm_epsilon);
        taps(query, take_rows(normed, rows), g.q, rows.offsets);
        taps(key, normed, g.k, batch.offsets);
        taps(value, normed, g.v, batch.offsets);
    }
    if (!lower_blocks_chosen) return {};

    const auto q_width = c.heads * c.head_dim;
    const auto kv_width = c.kv_heads * c.head_dim;
    auto x_gradient = residual_gradient;
    Tensor normed_gradient;
    if (rows.index.defined()) {
        normed_gradient = at::mm(at::cat({g.k, g.v}, 1), block.qkv.weight.narrow(0, q_width, 2 * kv_width));
        normed_gradient.index_add_(0, rows.index, at::mm(g.q, block.qkv.weight.narrow(0, 0, q_width)));
        x_gradient = at::zeros_like(trace.x).index_copy_(0, rows.index, residual_gradient);
    } else {
        normed_gradient = at::mm(at::cat({g.q, g.k, g.v}, 1), block.qkv.weight);
    }
    rms_norm_backward_(x_gradient, trace.x, block.input_norm, c.norm_epsilon, normed_gradient);
    return x_gradient;
}

struct HeadResult {
    Tensor losses;    ///< (n)
    Tensor gradient;  ///< (R x d) of the final-normed hidden state; undefined without `differentiate`
};

/// Loss of every sample from the final-normed hidden state at the predictors (R x d), logits in chunks of bounded
/// memory.
HeadResult head(const Decoder& decoder, const Tensor& hidden, const LossLabels& labels, const Tensor& sample_scale,
                bool differentiate) {
    const auto rows = label_rows(hidden, labels, sample_scale);
    HeadResult result{at::zeros({static_cast<std::int64_t>(labels.counts.size())}, hidden.options()),
                      differentiate ? at::empty_like(hidden) : Tensor()};
    for_each_logit_chunk(decoder, hidden.size(0), [&](std::int64_t first, std::int64_t count) {
        const auto part = [&](const Tensor& x) { return x.narrow(0, first, count); };
        auto z = at::mm(part(hidden), decoder.head().t());
        const auto row_losses = cross_entropy_(z, part(labels.labels), part(rows.scale));
        result.losses.index_add_(0, part(rows.sample), row_losses * part(rows.mean));
        if (differentiate) part(result.gradient).copy_(head_backward(decoder, z));
    });
    return result;
}

struct GradientPass {
    Tensor losses;  ///< (n)
    Tensor hidden;  ///< (rows of the batch's outputs x d), final-normed
};

GradientPass gradient_pass(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                           const OnLayer& on_layer, const Tensor& sample_scale) {
    const auto& c = decoder.config();
    const auto everything = all_rows(batch.batch);
    const auto rows_of = [&](std::int64_t b) -> const RowSubset& {
        return b + 1 == c.blocks ? batch.outputs : everything;
    };
    std::vector<BlockTrace> traces(static_cast<std::size_t>(c.blocks));
    auto x = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b) {
        auto* trace = b >= chosen.lowest_block() ? &traces[static_cast<std::size_t>(b)] : nullptr;
        x = block_forward(decoder, static_cast<std::size_t>(b), x, batch.batch, rows_of(b), trace);
    }
    const auto hidden = rms_norm(x, decoder.final_norm(), c.norm_epsilon);
    const bool all = !batch.predictors.defined();
    auto result =
        head(decoder, all ? hidden : hidden.index_select(0, batch.predictors), batch.labels, sample_scale, true);
    if (!all) result.gradient = at::zeros_like(hidden).index_copy_(0, batch.predictors, result.gradient);
    auto gradient = at::zeros_like(x);
    rms_norm_backward_(gradient, x, decoder.final_norm(), c.norm_epsilon, result.gradient);
    for (std::int64_t b = c.blocks - 1; b >= chosen.lowest_block(); --b) {
        auto& trace = traces[static_cast<std::size_t>(b)];
        gradient = block_backward(decoder, static_cast<std::size_t>(b), trace, gradient, batch.batch, rows_of(b),
                                  BlockTaps(chosen, b, on_layer), b > chosen.lowest_block());
        trace = {};
    }
    return {result.losses, hidden};
}

}  // namespace

ChosenLayers::ChosenLayers(const model::ModelConfig& config, std::vector<model::LinearLayer> layers)
    : layers_(std::move(layers)),
      index_(static_cast<std::size_t>(config.blocks * projections), -1),
      lowest_block_(config.blocks) {
    constexpr std::array<const char*, projections> suffixes{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                            "gate_proj", "up_proj", "down_proj"};
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        const auto suffix =
            std::find_if(suffixes.begin(), suffixes.end(), [&](const char* s) { return layers_[i].name.ends_with(s); });
        TORCH_INTERNAL_ASSERT(suffix != suffixes.end());
        index_[static_cast<std::size_t>(layers_[i].block * projections + (suffix - suffixes.begin()))] =
            static_cast<std::int64_t>(i);
        lowest_block_ = std::min(lowest_block_, layers_[i].block);
    }
}

std::int64_t ChosenLayers::index(std::int64_t block, Projection projection) const {
    return index_[static_cast<std::size_t>(block * projections + projection)];
}

bool ChosenLayers::any(std::int64_t block, std::initializer_list<Projection> some) const {
    return std::any_of(some.begin(), some.end(), [&](Projection p) { return index(block, p) >= 0; });
}

LossBatch pack_with_labels(const Decoder& decoder, const data::Samples& samples,
                           const std::vector<std::int64_t>& chosen, Reach reach) {
    LossBatch batch;
    std::vector<std::vector<std::int64_t>> predictors, outputs;
    std::vector<std::int64_t> lengths, labels, places;
    std::int64_t place = 0;
    for (const auto i : chosen) {
        const auto first = samples.offsets[static_cast<std::size_t>(i)];
        const auto end = samples.offsets[static_cast<std::size_t>(i) + 1];
        auto& rows = predictors.emplace_back();
        for (auto p = first + 1; p < end; ++p) {
            if (samples.label_mask[static_cast<std::size_t>(p)] == 0) continue;
            rows.push_back(p - 1 - first);
            labels.push_back(samples.tokens[static_cast<std::size_t>(p)]);
            places.push_back(place++);
        }
        TORCH_INTERNAL_ASSERT(!rows.empty(), "a sample without labels must be quarantined before it gets here");
        lengths.push_back(reach == Reach::last_token ? end - first : rows.back() + 1);
        batch.labels.counts.push_back(static_cast<std::int64_t>(rows.size()));
        outputs.push_back(rows);
        if (reach == Reach::last_predictor) continue;
        outputs.back().push_back(end - 1 - first);  // no predictor: nothing follows it
        ++place;
    }
    const auto on_device = [&](const std::vector<std::int64_t>& values) {
        return at::tensor(values, at::TensorOptions().dtype(torch::kInt64)).to(decoder.options().device());
    };
    batch.batch = pack(decoder, samples, chosen, lengths);
    batch.labels.predictors = rows_at(batch.batch, predictors);
    batch.labels.labels = on_device(labels);
    batch.outputs = rows_at(batch.batch, outputs);
    if (reach == Reach::last_token) batch.predictors = on_device(places);
    return batch;
}

Tensor loss_gradients(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                      const OnLayer& on_layer, const Tensor& sample_scale) {
    return gradient_pass(decoder, batch, chosen, on_layer, sample_scale).losses;
}

LossPass loss_gradients_and_hidden(const Decoder& decoder, const LossBatch& batch, const ChosenLayers& chosen,
                                   const OnLayer& on_layer) {
    TORCH_INTERNAL_ASSERT(batch.predictors.defined(), "the batch must be packed with Reach::last_token");
    const auto pass = gradient_pass(decoder, batch, chosen, on_layer, {});
    std::vector<std::int64_t> last;
    for (std::size_t i = 1; i < batch.outputs.offsets.size(); ++i) last.push_back(batch.outputs.offsets[i] - 1);
    const auto index = at::tensor(last, at::TensorOptions().dtype(torch::kInt64)).to(pass.hidden.device());
    return {pass.losses, pass.hidden.index_select(0, index)};
}

Tensor losses(const Decoder& decoder, const LossBatch& batch) {
    const auto& c = decoder.config();
    const auto everything = all_rows(batch.batch);
    auto x = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b)
        x = block_forward(decoder, static_cast<std::size_t>(b), x, batch.batch,
                          b + 1 == c.blocks ? batch.labels.predictors : everything, nullptr);
    return head(decoder, rms_norm(x, decoder.final_norm(), c.norm_epsilon), batch.labels, {}, false).losses;
}

}  // namespace idistill::model
