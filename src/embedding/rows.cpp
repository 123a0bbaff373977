#include "rows.hpp"

#include <cmath>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/model/padding.hpp"
#include "idistill/model/precision.hpp"
#include "idistill/model/random.hpp"

namespace idistill::embedding {

using torch::Tensor;

namespace {

class Projected final : public Encoder {
public:
    Projected(const model::Decoder& decoder, std::int64_t whole, std::int64_t width, std::uint64_t seed, BatchRows rows)
        : decoder_(decoder),
          rows_(std::move(rows)),
          projection_(projection(whole, width, seed, model::accumulating(decoder.options()))),
          width_(std::min(width, whole)) {}

    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const override {
        const auto lengths = lengths_of(samples);
        return in_micro_batches(decoder_, lengths, width_, batch_tokens, [&](const std::vector<std::int64_t>& members) {
            std::vector<std::int64_t> whole;
            for (const auto i : members) whole.push_back(lengths[static_cast<std::size_t>(i)]);
            return project(rows_(model::pack(decoder_, samples, members, whole)), projection_);
        });
    }

private:
    const model::Decoder& decoder_;
    BatchRows rows_;
    Tensor projection_;
    std::int64_t width_;
};

}  // namespace

std::vector<std::int32_t> lengths_of(const data::Samples& samples) {
    std::vector<std::int32_t> lengths;
    for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(samples.offsets[i + 1] - samples.offsets[i]));
    return lengths;
}

Tensor in_micro_batches(const model::Decoder& decoder, const std::vector<std::int32_t>& lengths, std::int64_t width,
                        std::int64_t batch_tokens,
                        const std::function<Tensor(const std::vector<std::int64_t>&)>& embed) {
    auto rows = at::zeros({static_cast<std::int64_t>(lengths.size()), width}, model::accumulating(decoder.options()));
    model::for_each_micro_batch(
        data::pack_micro_batches(lengths, batch_tokens), [&](const std::vector<std::int64_t>& members) {
            rows.index_copy_(0, model::on_device(members, rows.device()), embed(members).to(rows.scalar_type()));
        });
    return rows.to(torch::kFloat32);
}

Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options) {
    if (to >= from) return {};
    return model::signs({seed, "embedding projection"}, {0, from}, to, 1.0 / std::sqrt(static_cast<double>(to)),
                        options);
}

Tensor project(const Tensor& x, const Tensor& matrix) {
    return matrix.defined() ? at::mm(x.to(matrix.scalar_type()), matrix) : model::widened(x);
}

std::unique_ptr<Encoder> make_projected_encoder(const model::Decoder& decoder, std::int64_t whole, std::int64_t width,
                                                std::uint64_t seed, BatchRows rows) {
    return std::make_unique<Projected>(decoder, whole, width, seed, std::move(rows));
}

void check_blocks(const model::ModelConfig& config, std::int64_t blocks, const std::string& option,
                  const std::string& given, const std::string& remedy) {
    if (blocks <= config.blocks) return;
    throw Error(ExitCode::usage,
                {option, {}, "at most " + std::to_string(config.blocks) + ", the blocks of this model", given, remedy});
}

void FirstBlocks::plan(model::Planner& planner) {
    check_blocks(planner.model, settings_.jvp_blocks, "--jvp-blocks", std::to_string(settings_.jvp_blocks),
                 "Give fewer --jvp-blocks.");
    whole_ = states_ * planner.model.hidden;
    width_ = std::min(whole_, settings_.embedding_dim);
    model_ = planner.model;
    cost_.emplace(model_);
    planner.plan.needs.push_back(held(whole_, width_));
}

}  // namespace idistill::embedding
