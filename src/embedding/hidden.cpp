// Hidden states of the first blocks: the cheapest embedding.

#include <ATen/ATen.h>

#include "idistill/embedding/members.hpp"
#include "idistill/model/passes.hpp"
#include "idistill/model/precision.hpp"
#include "rows.hpp"

namespace idistill::embedding {
namespace {

/// (n x 2d) of hidden states (T x d).
torch::Tensor mean_and_last(const torch::Tensor& hidden, const model::PackedBatch& batch) {
    std::vector<std::int64_t> last, counts;
    for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
        last.push_back(batch.offsets[i + 1] - 1);
        counts.push_back(batch.offsets[i + 1] - batch.offsets[i]);
    }
    const auto sums = batch.padding->sums(model::widened(hidden));
    const auto mean = sums / model::on_device(counts, hidden.device()).unsqueeze(1);
    return at::cat({mean, model::widened(hidden.index_select(0, model::on_device(last, hidden.device())))}, 1);
}

}  // namespace

Member hidden_member();  // listed in members.cpp

std::unique_ptr<Encoder> make_hidden_encoder(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed,
                                             std::int64_t width) {
    return make_projected_encoder(decoder, 2 * decoder.config().hidden, width, seed,
                                  [&decoder, blocks](const model::PackedBatch& batch) {
                                      const auto hidden = model::hidden_states(decoder, batch, blocks);
                                      if (batch.padding) return mean_and_last(hidden, batch);
                                      std::vector<torch::Tensor> rows;
                                      for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
                                          const auto length = batch.offsets[i + 1] - batch.offsets[i];
                                          const auto own = hidden.narrow(0, batch.offsets[i], length);
                                          rows.push_back(at::cat({own.mean(0), own.select(0, length - 1)}));
                                      }
                                      return at::stack(rows);
                                  });
}

namespace {

class Hidden final : public FirstBlocks {
public:
    explicit Hidden(const options::Values& values) : FirstBlocks("hidden", values, 2, 0, 0) {}

    void load(const model::Decoder& decoder) override {
        encoder_ = make_hidden_encoder(decoder, settings_.jvp_blocks, run_.seed, width_);
    }

private:
    [[nodiscard]] plan::Need held(std::int64_t whole, std::int64_t width) const override {
        return {.what = "projection of the hidden states",
                .per_rank = projection_bytes(whole, width),
                .remedy = "a smaller --embedding-dim",
                .on_gpu = true};
    }
};

}  // namespace

Member hidden_member() {
    return {.form = "hidden",
            .help = "mean and last hidden state after them, cheaper",
            .make = make_member<Hidden>,
            .of_auto = true,
            .of_blocks = true};
}

}  // namespace idistill::embedding
