#include "idistill/model/decoder.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <numbers>

namespace idistill::model {
namespace {

using model::ModelConfig;
using torch::Tensor;

std::string block_prefix(std::int64_t block) { return "model.layers." + std::to_string(block) + "."; }

/// A run of slots that is one tensor: q, k, v one below the other.
struct Group {
    std::vector<std::string> names;
    std::vector<std::vector<std::int64_t>> shapes;
};

std::vector<Group> weight_groups(const ModelConfig& c) {
    std::vector<Group> groups;
    const auto single = [&groups](std::string name, std::vector<std::int64_t> shape) {
        groups.push_back({{std::move(name)}, {std::move(shape)}});
    };
    const auto q = c.heads * c.head_dim;
    const auto kv = c.kv_heads * c.head_dim;
    single("model.embed_tokens.weight", {c.vocabulary, c.hidden});
    for (std::int64_t b = 0; b < c.blocks; ++b) {
        const auto p = block_prefix(b);
        const auto a = p + "self_attn.";
        const auto m = p + "mlp.";
        single(p + "input_layernorm.weight", {c.hidden});
        groups.push_back({{a + "q_proj.weight", a + "k_proj.weight", a + "v_proj.weight"},
                          {{q, c.hidden}, {kv, c.hidden}, {kv, c.hidden}}});
        if (c.attention_bias)
            groups.push_back({{a + "q_proj.bias", a + "k_proj.bias", a + "v_proj.bias"}, {{q}, {kv}, {kv}}});
        if (c.query_key_norm) {
            single(a + "q_norm.weight", {c.head_dim});
            single(a + "k_norm.weight", {c.head_dim});
        }
        single(a + "o_proj.weight", {c.hidden, q});
        if (c.attention_output_bias) single(a + "o_proj.bias", {c.hidden});
        single(p + "post_attention_layernorm.weight", {c.hidden});
        groups.push_back(
            {{m + "gate_proj.weight", m + "up_proj.weight"}, {{c.intermediate, c.hidden}, {c.intermediate, c.hidden}}});
        if (c.mlp_bias)
            groups.push_back({{m + "gate_proj.bias", m + "up_proj.bias"}, {{c.intermediate}, {c.intermediate}}});
        single(m + "down_proj.weight", {c.hidden, c.intermediate});
        if (c.mlp_bias) single(m + "down_proj.bias", {c.hidden});
    }
    single("model.norm.weight", {c.hidden});
    if (!c.tied_embedding) single("lm_head.weight", {c.vocabulary, c.hidden});
    return groups;
}

std::size_t bytes_of(const std::vector<std::int64_t>& shape) {
    std::size_t bytes = sizeof(float);
    for (const auto extent : shape) bytes *= static_cast<std::size_t>(extent);
    return bytes;
}

/// Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended (HF's "llama3" rope
/// type).
double scaled_frequency(double frequency, const model::RopeScaling& scaling) {
    if (scaling.type == "linear") return frequency / scaling.factor;
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    const double low_wavelength = scaling.original_positions / scaling.low_frequency_factor;
    const double high_wavelength = scaling.original_positions / scaling.high_frequency_factor;
    if (wavelength < high_wavelength) return frequency;
    if (wavelength > low_wavelength) return frequency / scaling.factor;
    const double smooth = (scaling.original_positions / wavelength - scaling.low_frequency_factor) /
                          (scaling.high_frequency_factor - scaling.low_frequency_factor);
    return (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

WeightLayout weight_layout(const ModelConfig& config) {
    constexpr std::size_t alignment = 64;
    WeightLayout layout;
    for (const auto& group : weight_groups(config)) {
        for (std::size_t i = 0; i < group.names.size(); ++i) {
            layout.slots.push_back({group.names[i], group.shapes[i], layout.bytes});
            layout.bytes += bytes_of(group.shapes[i]);
        }
        layout.bytes = (layout.bytes + alignment - 1) / alignment * alignment;
    }
    return layout;
}

Decoder::Decoder(ModelConfig config, const WeightLayout& layout, std::span<std::byte> memory)
    : config_(std::move(config)) {
    std::map<std::string, const WeightSlot*> slots;
    for (const auto& slot : layout.slots) slots[slot.name] = &slot;
    // A view over `names` stacked along the first dimension; undefined when the model has no such tensor.
    const auto view = [&](const std::vector<std::string>& names) {
        const auto first = slots.find(names.front());
        if (first == slots.end()) return Tensor();
        auto shape = first->second->shape;
        shape[0] = 0;
        for (const auto& name : names) shape[0] += slots.at(name)->shape[0];
        return at::from_blob(memory.data() + first->second->offset, shape, at::TensorOptions().dtype(torch::kFloat32));
    };
    embedding_ = view({"model.embed_tokens.weight"});
    for (std::int64_t b = 0; b < config_.blocks; ++b) {
        const auto p = block_prefix(b);
        const auto a = p + "self_attn.";
        const auto m = p + "mlp.";
        Block block;
        block.input_norm = view({p + "input_layernorm.weight"});
        block.qkv = {view({a + "q_proj.weight", a + "k_proj.weight", a + "v_proj.weight"}),
                     view({a + "q_proj.bias", a + "k_proj.bias", a + "v_proj.bias"})};
        block.query_norm = view({a + "q_norm.weight"});
        block.key_norm = view({a + "k_norm.weight"});
        block.output = {view({a + "o_proj.weight"}), view({a + "o_proj.bias"})};
        block.attention_norm = view({p + "post_attention_layernorm.weight"});
        block.gate_up = {view({m + "gate_proj.weight", m + "up_proj.weight"}),
                         view({m + "gate_proj.bias", m + "up_proj.bias"})};
        block.down = {view({m + "down_proj.weight"}), view({m + "down_proj.bias"})};
        blocks_.push_back(std::move(block));
    }
    final_norm_ = view({"model.norm.weight"});
    head_ = config_.tied_embedding ? embedding_ : view({"lm_head.weight"});

    const auto half = config_.head_dim / 2;
    inverse_frequencies_ = at::empty({half}, at::TensorOptions().dtype(torch::kFloat32));
    for (std::int64_t i = 0; i < half; ++i) {
        const double frequency =
            std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config_.head_dim));
        inverse_frequencies_[i] = config_.rope_scaling ? scaled_frequency(frequency, *config_.rope_scaling) : frequency;
    }
}

Decoder Decoder::to(torch::Device device, torch::ScalarType dtype) const {
    Decoder copy(*this);
    const auto move = [&](Tensor& tensor) {
        if (tensor.defined()) tensor = tensor.to(device, dtype);
    };
    move(copy.embedding_);
    for (auto& block : copy.blocks_) {
        for (auto* tensor : {&block.input_norm, &block.qkv.weight, &block.qkv.bias, &block.query_norm, &block.key_norm,
                             &block.output.weight, &block.output.bias, &block.attention_norm, &block.gate_up.weight,
                             &block.gate_up.bias, &block.down.weight, &block.down.bias})
            move(*tensor);
    }
    move(copy.final_norm_);
    if (config_.tied_embedding)
        copy.head_ = copy.embedding_;
    else
        move(copy.head_);
    copy.inverse_frequencies_ = inverse_frequencies_.to(device);
    return copy;
}

Tensor weight_of(const Decoder& decoder, const model::LinearLayer& layer) {
    const auto& c = decoder.config();
    const auto& block = decoder.blocks()[static_cast<std::size_t>(layer.block)];
    const auto q = c.heads * c.head_dim;
    const auto kv = c.kv_heads * c.head_dim;
    if (layer.name.ends_with("q_proj")) return block.qkv.weight.narrow(0, 0, q);
    if (layer.name.ends_with("k_proj")) return block.qkv.weight.narrow(0, q, kv);
    if (layer.name.ends_with("v_proj")) return block.qkv.weight.narrow(0, q + kv, kv);
    if (layer.name.ends_with("o_proj")) return block.output.weight;
    if (layer.name.ends_with("gate_proj")) return block.gate_up.weight.narrow(0, 0, c.intermediate);
    if (layer.name.ends_with("up_proj")) return block.gate_up.weight.narrow(0, c.intermediate, c.intermediate);
    return block.down.weight;
}

Decoder::Rotation Decoder::rotation(const Tensor& positions) const {
    const auto angles = positions.to(inverse_frequencies_.options()).unsqueeze(1) * inverse_frequencies_.unsqueeze(0);
    return {angles.cos().to(embedding_.scalar_type()), angles.sin().to(embedding_.scalar_type())};
}

}  // namespace idistill::model
