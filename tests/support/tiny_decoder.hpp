#pragma once
// Tiny random decoders in memory, random samples and comparisons, for tests of everything above LibTorch.

#include <ATen/ATen.h>
#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/model/decoder.hpp"

namespace idistill::test {

using torch::Tensor;

/// Standard normal numbers in float64.
inline Tensor normal(const std::vector<std::int64_t>& shape, std::uint64_t seed) {
    auto values = at::empty(shape, at::TensorOptions().dtype(torch::kFloat64));
    std::mt19937_64 random(seed);
    std::normal_distribution<double> distribution;
    auto* value = values.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < values.numel(); ++i) value[i] = distribution(random);
    return values;
}

/// |found - expected| / |expected| over all entries, in double; 0/0 is 0. NaN anywhere gives NaN, which fails every
/// comparison.
inline double relative_error(const Tensor& found, const Tensor& expected) {
    const auto truth = expected.to(torch::kFloat64);
    const double error = (found.to(torch::kFloat64) - truth).norm().item<double>();
    return error == 0.0 ? 0.0 : error / truth.norm().item<double>();
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
    return a.scalar_type() == b.scalar_type() && at::equal(a, b);
}

/// Llama with every bias, heads that share keys and an own head; its head width times heads is not its hidden size.
inline model::ModelConfig tiny_llama() {
    model::ModelConfig c;
    c.family = "llama";
    c.vocabulary = 23;
    c.hidden = 12;
    c.intermediate = 10;
    c.blocks = 3;
    c.heads = 4;
    c.kv_heads = 2;
    c.head_dim = 4;
    c.rope_theta = 100.0;
    c.max_positions = 512;
    c.attention_bias = c.attention_output_bias = c.mlp_bias = true;
    return c;
}

/// Qwen3: normed heads, tied embedding, no bias, every head with its own key.
inline model::ModelConfig tiny_qwen3() {
    auto c = tiny_llama();
    c.family = "qwen3";
    c.kv_heads = c.heads;
    c.head_dim = 6;
    c.attention_bias = c.attention_output_bias = c.mlp_bias = false;
    c.query_key_norm = c.tied_embedding = true;
    return c;
}

/// Random values for every slot: norm weights around 1, matrices that keep the size of what goes through them.
inline Tensor random_weights(const model::WeightLayout& layout, std::uint64_t seed) {
    const auto floats = [](std::size_t bytes) { return static_cast<std::int64_t>(bytes / sizeof(float)); };
    auto memory = at::zeros({floats(layout.bytes)}, at::TensorOptions().dtype(torch::kFloat32));
    for (const auto& slot : layout.slots) {
        auto values = normal(slot.shape, 1000 * seed + slot.offset);
        if (slot.name.find("norm") != std::string::npos)
            values.mul_(0.2).add_(1.0);
        else if (slot.shape.size() == 1)
            values.mul_(0.3);
        else if (slot.name.find("embed") == std::string::npos)
            values.mul_(1.3 / std::sqrt(static_cast<double>(slot.shape[1])));
        memory.narrow(0, floats(slot.offset), values.numel()).copy_(values.view({-1}));
    }
    return memory;
}

/// A decoder over random weights of its own.
class TinyModel {
public:
    explicit TinyModel(const model::ModelConfig& config, std::uint64_t seed = 1)
        : layout_(model::weight_layout(config)),
          memory_(random_weights(layout_, seed)),
          decoder_(config, layout_, bytes()) {}

    [[nodiscard]] const model::Decoder& decoder() const noexcept { return decoder_; }
    [[nodiscard]] const model::ModelConfig& config() const noexcept { return decoder_.config(); }
    /// A copy in double precision.
    [[nodiscard]] model::Decoder in_double() const { return decoder_.to(torch::kCPU, torch::kFloat64); }

private:
    [[nodiscard]] std::span<std::byte> bytes() const {
        return {static_cast<std::byte*>(memory_.mutable_data_ptr()), layout_.bytes};
    }

    model::WeightLayout layout_;
    Tensor memory_;
    model::Decoder decoder_;
};

/// Random samples of the given lengths; about half of the tokens are labels, the last always is.
inline data::Samples random_samples(std::int64_t vocabulary, const std::vector<std::int64_t>& lengths,
                                    std::uint64_t seed) {
    std::mt19937_64 random(seed);
    data::Samples samples;
    samples.offsets.push_back(0);
    for (const auto length : lengths) {
        for (std::int64_t p = 0; p < length; ++p) {
            samples.tokens.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary)));
            samples.label_mask.push_back(p + 1 == length || random() % 2 == 0 ? 1 : 0);
        }
        samples.offsets.push_back(static_cast<std::int64_t>(samples.tokens.size()));
    }
    return samples;
}

/// One of the samples alone, cut to `length` tokens.
inline data::Samples only(const data::Samples& samples, std::int64_t chosen, std::int64_t length) {
    const auto first = samples.offsets[static_cast<std::size_t>(chosen)];
    return {{samples.tokens.begin() + first, samples.tokens.begin() + first + length},
            {samples.label_mask.begin() + first, samples.label_mask.begin() + first + length},
            {0, length}};
}

inline std::int64_t length_of(const data::Samples& samples, std::int64_t i) {
    return samples.offsets[static_cast<std::size_t>(i) + 1] - samples.offsets[static_cast<std::size_t>(i)];
}

}  // namespace idistill::test
