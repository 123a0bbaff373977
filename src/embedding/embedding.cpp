#include "idistill/embedding/embedding.hpp"

#include <ATen/ATen.h>

#include "rows.hpp"

namespace idistill::embedding {
namespace {

using torch::Tensor;

/// The members of a micro-batch, whole.
model::PackedBatch packed(const model::Decoder& decoder, const data::Samples& samples,
                          const std::vector<std::int32_t>& lengths, const std::vector<std::int64_t>& members) {
    std::vector<std::int64_t> own;
    for (const auto i : members) own.push_back(lengths[static_cast<std::size_t>(i)]);
    return model::pack(decoder, samples, members, own);
}

class Jvp final : public Embedding {
public:
    Jvp(const model::Decoder& decoder, const JvpSettings& settings, std::int64_t width)
        : decoder_(decoder),
          directions_(random_directions(decoder, settings)),
          projection_(projection(settings.tangents * decoder.config().hidden, width, settings.seed, decoder.options())),
          width_(std::min(width, settings.tangents * decoder.config().hidden)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        const auto lengths = lengths_of(samples);
        return in_micro_batches(decoder_, lengths, width_, batch_tokens, [&](const std::vector<std::int64_t>& members) {
            const auto batch = packed(decoder_, samples, lengths, members);
            return project(model::last_token_tangents(decoder_, batch, directions_), projection_);
        });
    }

private:
    const model::Decoder& decoder_;
    model::Directions directions_;
    Tensor projection_;
    std::int64_t width_;
};

class Hidden final : public Embedding {
public:
    Hidden(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed, std::int64_t width)
        : decoder_(decoder),
          blocks_(blocks),
          projection_(projection(2 * decoder.config().hidden, width, seed, decoder.options())),
          width_(std::min(width, 2 * decoder.config().hidden)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        const auto lengths = lengths_of(samples);
        return in_micro_batches(decoder_, lengths, width_, batch_tokens, [&](const std::vector<std::int64_t>& members) {
            const auto batch = packed(decoder_, samples, lengths, members);
            const auto hidden = model::hidden_states(decoder_, batch, blocks_);
            std::vector<Tensor> rows;
            for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
                const auto own = hidden.narrow(0, batch.offsets[i], batch.offsets[i + 1] - batch.offsets[i]);
                rows.push_back(at::cat({own.mean(0), own.select(0, own.size(0) - 1)}));
            }
            return project(at::stack(rows), projection_);
        });
    }

private:
    const model::Decoder& decoder_;
    std::int64_t blocks_;
    Tensor projection_;
    std::int64_t width_;
};

}  // namespace

std::unique_ptr<Embedding> make_jvp_embedding(const model::Decoder& decoder, const JvpSettings& settings,
                                              std::int64_t width) {
    return std::make_unique<Jvp>(decoder, settings, width);
}

std::unique_ptr<Embedding> make_hidden_embedding(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed,
                                                 std::int64_t width) {
    return std::make_unique<Hidden>(decoder, blocks, seed, width);
}

}  // namespace idistill::embedding
