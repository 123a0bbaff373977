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

struct HeadResult {
    Tensor losses;    ///< (n)
    Tensor gradient;  ///< (R x d) of the final-normed hidden state; undefined without `differentiate`
};

/// Loss of every sample from the final-normed hidden state at the predictors (R x d), logits in chunks of bounded
/// memory.
HeadResult head(const Decoder& decoder, const Tensor& hidden, const LossLabels& labels, const Tensor& sample_scale,
                bool differentiate) {
    const auto rows = label_rows(hidden, labels, sample_scale);
    const auto samples = static_cast<std::int64_t>(labels.counts.size());
    HeadResult result{at::zeros({samples}, rows.mean.options()), differentiate ? at::empty_like(hidden) : Tensor()};
    auto parts = at::empty_like(rows.mean);  // of the samples' losses
    for_each_logit_chunk(decoder, hidden.size(0), [&](std::int64_t first, std::int64_t count) {
        const auto part = [&](const Tensor& x) { return x.narrow(0, first, count); };
        auto z = head_forward(decoder, part(hidden));
        part(parts).copy_(cross_entropy_(z, part(labels.labels), part(rows.scale)).mul_(part(rows.mean)));
        if (differentiate) part(result.gradient).copy_(head_backward(decoder, z));
    });
    const auto* padding = labels.predictors.padding.get();
    result.losses = padding != nullptr ? padding->sums(parts) : result.losses.index_add_(0, rows.sample, parts);
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
    std::vector<BlockTrace<Tensor>> traces(static_cast<std::size_t>(c.blocks));
    auto x = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b) {
        auto* trace = b >= chosen.lowest_block() ? &traces[static_cast<std::size_t>(b)] : nullptr;
        x = block_forward(block_of(decoder, b), x, batch.batch, rows_of(b), trace);
    }
    const auto hidden = rms_norm(x, decoder.final_norm(), c.norm_epsilon);
    const bool all = !batch.predictors.defined();
    auto result =
        head(decoder, all ? hidden : hidden.index_select(0, batch.predictors), batch.labels, sample_scale, true);
    if (!all) result.gradient = at::zeros_like(hidden).index_copy_(0, batch.predictors, result.gradient);
    auto gradient = at::zeros_like(x);
    rms_norm_backward_(gradient, x, decoder.final_norm(), c.norm_epsilon, result.gradient);
    const auto tap = [&on_layer](std::size_t layer, const Tensor& input, const Tensor& output_gradient,
                                 const SampleRows& rows) {
        on_layer({layer, input, output_gradient, rows.offsets, rows.padding.get()});
    };
    for (std::int64_t b = c.blocks - 1; b >= chosen.lowest_block(); --b) {
        auto& trace = traces[static_cast<std::size_t>(b)];
        const BlockTaps<Tensor> taps{chosen, b, tap};
        gradient = block_backward(block_of(decoder, b), trace, gradient, batch.batch, rows_of(b), taps,
                                  b > chosen.lowest_block());
        trace = {};
    }
    return {result.losses, hidden};
}

}  // namespace

QueryKeyValue<Tensor> attend_backward(const ModelConfig& config, const QueryKeyValue<Tensor>& heads,
                                      const PackedBatch& batch, const RowSubset& rows, const Tensor& gradient) {
    auto g = attention_backward(config, {heads.q, heads.k, heads.v}, batch, rows, gradient);
    return {g.q, g.k, g.v};
}

Tensor qkv_backward(const DirectedBlock& block, const QueryKeyValue<Tensor>& g, const RowSubset& rows) {
    const auto& weight = block.weights.qkv.weight;
    if (!rows.index.defined()) return at::mm(at::cat({g.q, g.k, g.v}, 1), weight);
    const auto q_width = block.query_width();
    auto gradient = at::mm(at::cat({g.k, g.v}, 1), weight.narrow(0, q_width, 2 * block.key_width()));
    return gradient.index_add_(0, rows.index, at::mm(g.q, weight.narrow(0, 0, q_width)));
}

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
    batch.batch = pack(decoder, samples, chosen, lengths);
    batch.labels.predictors = rows_at(batch.batch, predictors);
    const auto device = decoder.options().device();
    batch.labels.labels = on_device(labels, device);
    batch.outputs = rows_at(batch.batch, outputs);
    if (reach == Reach::last_token) batch.predictors = on_device(places, device);
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
    return {pass.losses, pass.hidden.index_select(0, on_device(last, pass.hidden.device()))};
}

Tensor losses(const Decoder& decoder, const LossBatch& batch) {
    const auto& c = decoder.config();
    const auto everything = all_rows(batch.batch);
    auto x = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b)
        x = block_forward<Tensor>(block_of(decoder, b), x, batch.batch,
                                  b + 1 == c.blocks ? batch.labels.predictors : everything, nullptr);
    return head(decoder, rms_norm(x, decoder.final_norm(), c.norm_epsilon), batch.labels, {}, false).losses;
}

}  // namespace idistill::model
