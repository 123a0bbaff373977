// The JVP embedding (Influence Distillation, arXiv 2505.19051, section 4.3).

#include <ATen/ATen.h>

#include "idistill/embedding/directions.hpp"
#include "idistill/embedding/members.hpp"
#include "idistill/embedding/options.hpp"
#include "idistill/model/passes.hpp"
#include "idistill/options/option_kinds.hpp"
#include "rows.hpp"

namespace idistill::embedding {

Member jvp_member();  // listed in members.cpp

std::unique_ptr<Encoder> make_jvp_encoder(const model::Decoder& decoder, std::int64_t blocks,
                                          const JvpSettings& settings, std::uint64_t seed, std::int64_t width) {
    return make_projected_encoder(
        decoder, settings.tangents * decoder.config().hidden, width, seed,
        [&decoder, directions = random_directions(decoder, blocks, settings, seed)](const model::PackedBatch& batch) {
            return model::last_token_tangents(decoder, batch, directions);
        });
}

namespace {

/// Bytes of random directions of all matrices (those of norms and biases are vectors).
double direction_bytes(const model::ModelConfig& config, std::int64_t blocks, const JvpSettings& jvp) {
    const auto direction = [&jvp](std::int64_t a, std::int64_t b) {
        const auto rank = static_cast<double>(jvp.direction_rank), x = static_cast<double>(a),
                   y = static_cast<double>(b);
        return jvp.direction_rank == 0 ? x * y : rank * (x + y);
    };
    double numbers = direction(config.vocabulary, config.hidden);
    for (const auto& layer : model::linear_layers(config))
        if (layer.block < blocks) numbers += direction(layer.inputs, layer.outputs);
    return model::fp32_bytes * static_cast<double>(jvp.tangents) * numbers;
}

class Jvp final : public FirstBlocks {
public:
    explicit Jvp(const options::Values& values) : Jvp(values, values.of<JvpSettings>()) {}

    void load(const model::Decoder& decoder) override {
        encoder_ = make_jvp_encoder(decoder, settings_.jvp_blocks, {tangents_, rank_}, run_.seed, width_);
    }

private:
    Jvp(const options::Values& values, const JvpSettings& jvp)
        : FirstBlocks("jvp", values, jvp.tangents, jvp.tangents, jvp.direction_rank) {}

    [[nodiscard]] plan::Need held(std::int64_t whole, std::int64_t width) const override {
        return {.what = "directions of the embedding",
                .per_rank =
                    direction_bytes(model_, settings_.jvp_blocks, {tangents_, rank_}) + projection_bytes(whole, width),
                .remedy = rank_ == 0 ? "--jvp-rank 8" : "a smaller --embedding-dim",
                .on_gpu = true};
    }
};

std::vector<options::Option> jvp_options() {
    using namespace options;
    const auto in = of_run | of_embed;
    return {number_option(declared(option_group, "jvp-tangents K", "random directions", in), &JvpSettings::tangents, 1,
                          1024),
            number_option(
                declared(option_group, "jvp-rank R", "rank of the directions; 0: dense, as published, slower", in),
                &JvpSettings::direction_rank, 0, 65536)};
}

}  // namespace

Member jvp_member() {
    return {.form = "jvp",
            .help = "tangents of the first blocks",
            .make = make_member<Jvp>,
            .of_auto = true,
            .of_blocks = true,
            .options = jvp_options};
}

}  // namespace idistill::embedding
