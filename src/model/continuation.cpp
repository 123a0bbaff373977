#include "idistill/model/continuation.hpp"

#include <ATen/ATen.h>

#include "attention.hpp"
#include "block.hpp"
#include "head.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;

/// A packed batch whose samples continue a prefix, in one block.
struct ContinuedBatch {
    const SampleRows& rows;
    const Decoder::Rotation& rotation;
    const KeysAndValues& before;
};

Tensor attend(const ModelConfig& config, const QueryKeyValue<Tensor>& heads, const ContinuedBatch& batch,
              const RowSubset& rows) {
    return attention(config, {heads.q, heads.k, heads.v}, batch.rows, rows, &batch.before);
}

/// Of the batch's positions behind so many tokens.
Decoder::Rotation rotation_behind(const Decoder& decoder, const RowSubset& everything, std::int64_t tokens) {
    return decoder.rotation(on_device(everything.position, decoder.options().device()) + tokens);
}

/// (R) from final-normed hidden states (R x d).
Tensor log_probabilities(const Decoder& decoder, const Tensor& hidden, const Tensor& labels) {
    auto result = at::empty({hidden.size(0)}, accumulating(hidden.options()));
    for_each_logit_chunk(decoder, hidden.size(0), [&](std::int64_t first, std::int64_t count) {
        auto logits = head_forward(decoder, hidden.narrow(0, first, count));
        // Differences from the largest: the label's own logit may be it, and then nothing cancels.
        logits.sub_(std::get<0>(logits.max(1, true)));
        const auto own = logits.gather(1, labels.narrow(0, first, count).unsqueeze(1)).squeeze(1);
        result.narrow(0, first, count).copy_(own - logits.exp_().sum(1).log_());
    });
    return result;
}

}  // namespace

Prefix read_prefix(const Decoder& decoder, std::span<const std::int32_t> tokens) {
    const auto& c = decoder.config();
    const auto count = std::ssize(tokens);
    const data::Samples alone{{tokens.begin(), tokens.end()}, {}, {0, count}};
    const auto batch = pack(decoder, alone, {0}, {count});
    const auto everything = all_rows(batch), none = rows_at(batch, {{}});
    Prefix prefix{count, {}};
    auto x = decoder.embedding().index_select(0, batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b) {
        BlockTrace<Tensor> trace;
        x = block_forward<Tensor>(block_of(decoder, b), x, batch, b + 1 == c.blocks ? none : everything, &trace);
        prefix.blocks.push_back({keys_by_head(c, trace.heads.k), keys_by_head(c, trace.heads.v)});
    }
    return prefix;
}

Tensor label_log_probabilities(const Decoder& decoder, const Prefix* prefix, const LossBatch& batch) {
    TORCH_INTERNAL_ASSERT(!batch.predictors.defined(), "the batch must be packed with Reach::last_predictor");
    const auto& c = decoder.config();
    const auto everything = all_rows(batch.batch);
    const auto rotation =
        prefix == nullptr ? batch.batch.rotation : rotation_behind(decoder, everything, prefix->tokens);
    auto x = decoder.embedding().index_select(0, batch.batch.tokens);
    for (std::int64_t b = 0; b < c.blocks; ++b) {
        const auto& rows = b + 1 == c.blocks ? batch.labels.predictors : everything;
        if (prefix == nullptr) {
            x = block_forward<Tensor>(block_of(decoder, b), x, batch.batch, rows, nullptr);
        } else {
            const ContinuedBatch continued{batch.batch, rotation, prefix->blocks[static_cast<std::size_t>(b)]};
            x = block_forward<Tensor>(block_of(decoder, b), x, continued, rows, nullptr);
        }
    }
    return log_probabilities(decoder, rms_norm(x, decoder.final_norm(), c.norm_epsilon), batch.labels.labels);
}

}  // namespace idistill::model
