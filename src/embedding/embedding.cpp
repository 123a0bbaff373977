#include "idistill/embedding/embedding.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "idistill/data/work_unit.hpp"
#include "idistill/model/random.hpp"

namespace idistill::embedding {
namespace {

using torch::Tensor;

/// Runs `embed` (batch -> n x e) over micro-batches and puts the rows in the order of the samples.
template <class Embed>
Tensor in_micro_batches(const model::Decoder& decoder, const data::Samples& samples, std::int64_t width,
                        std::int64_t batch_tokens, Embed&& embed) {
    std::vector<std::int32_t> lengths;
    for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(samples.offsets[i + 1] - samples.offsets[i]));
    auto rows = at::zeros({samples.size(), width}, decoder.options());
    for (const auto& members : data::pack_micro_batches(lengths, batch_tokens)) {
        std::vector<std::int64_t> member_lengths;
        for (const auto i : members) member_lengths.push_back(lengths[static_cast<std::size_t>(i)]);
        const auto batch = model::pack(decoder, samples, members, member_lengths);
        rows.index_copy_(0, at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(rows.device()),
                         embed(batch));
    }
    return rows.to(torch::kFloat32);
}

/// Projection (from x to) by random signs over sqrt(to); undefined where nothing has to be projected.
Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options) {
    if (to >= from) return {};
    return model::signs({seed, "embedding projection"}, {0, from}, to, 1.0 / std::sqrt(static_cast<double>(to)),
                        options);
}

Tensor project(const Tensor& x, const Tensor& matrix) { return matrix.defined() ? at::mm(x, matrix) : x; }

class Jvp final : public Embedding {
public:
    Jvp(const model::Decoder& decoder, const JvpSettings& settings, std::int64_t width)
        : decoder_(decoder),
          directions_(random_directions(decoder, settings)),
          projection_(projection(settings.tangents * decoder.config().hidden, width, settings.seed, decoder.options())),
          width_(std::min(width, settings.tangents * decoder.config().hidden)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        return in_micro_batches(decoder_, samples, width_, batch_tokens, [this](const model::PackedBatch& batch) {
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
        return in_micro_batches(decoder_, samples, width_, batch_tokens, [this](const model::PackedBatch& batch) {
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
