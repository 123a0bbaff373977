#include "idistill/model/decoder.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <map>
#include <numbers>

#include "idistill/model/precision.hpp"
#include "weight_names.hpp"

namespace idistill::model {
namespace {

using model::ModelConfig;
using torch::Tensor;

std::string block_prefix(std::int64_t block) { return "model.layers." + std::to_string(block) + "."; }

/// A tensor of the model, and those of the checkpoint that lie in it one below the other.
struct Group {
    std::vector<std::string> names;
    std::vector<std::vector<std::int64_t>> shapes;
};

/// One of a block's, names without the block's prefix.
struct BlockGroup : Group {
    std::function<Tensor&(Block&)> of;
};

/// All that a block of this model has, in the order of the memory.
std::vector<BlockGroup> block_groups(const ModelConfig& c) {
    const auto q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    std::vector<BlockGroup> groups;
    const auto norm = [&groups](Tensor Block::*weight, const std::string& name, std::int64_t width) {
        groups.push_back({{{name + ".weight"}, {{width}}}, [weight](Block& b) -> Tensor& { return b.*weight; }});
    };
    const auto linear = [&groups](Linear Block::*layer, const std::vector<std::string>& names,
                                  const std::vector<std::int64_t>& outputs, std::int64_t inputs, bool has_bias) {
        BlockGroup weight{{}, [layer](Block& b) -> Tensor& { return (b.*layer).weight; }};
        BlockGroup bias{{}, [layer](Block& b) -> Tensor& { return (b.*layer).bias; }};
        for (std::size_t i = 0; i < names.size(); ++i) {
            weight.names.push_back(names[i] + ".weight");
            weight.shapes.push_back({outputs[i], inputs});
            bias.names.push_back(names[i] + ".bias");
            bias.shapes.push_back({outputs[i]});
        }
        groups.push_back(std::move(weight));
        if (has_bias) groups.push_back(std::move(bias));
    };
    norm(&Block::input_norm, "input_layernorm", c.hidden);
    linear(&Block::qkv, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, {q, kv, kv}, c.hidden,
           c.attention_bias);
    if (c.query_key_norm) {
        norm(&Block::query_norm, "self_attn.q_norm", c.head_dim);
        norm(&Block::key_norm, "self_attn.k_norm", c.head_dim);
    }
    linear(&Block::output, {"self_attn.o_proj"}, {c.hidden}, q, c.attention_output_bias);
    norm(&Block::attention_norm, "post_attention_layernorm", c.hidden);
    linear(&Block::gate_up, {"mlp.gate_proj", "mlp.up_proj"}, {c.intermediate, c.intermediate}, c.hidden, c.mlp_bias);
    linear(&Block::down, {"mlp.down_proj"}, {c.hidden}, c.intermediate, c.mlp_bias);
    return groups;
}

std::vector<Group> weight_groups(const ModelConfig& c) {
    std::vector<Group> groups{{{embedding_name}, {{c.vocabulary, c.hidden}}}};
    for (std::int64_t b = 0; b < c.blocks; ++b)
        for (auto& group : block_groups(c)) {
            for (auto& name : group.names) name = block_prefix(b) + name;
            groups.push_back(std::move(group));
        }
    groups.push_back({{final_norm_name}, {{c.hidden}}});
    if (!c.tied_embedding) groups.push_back({{head_name}, {{c.vocabulary, c.hidden}}});
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

bool better_padded(const Tensor& weights) {
    return !weights.is_cpu() || accumulate_type(weights.scalar_type()) != weights.scalar_type();
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

std::vector<std::int64_t> stacked_shape(const std::vector<const WeightSlot*>& slots) {
    auto shape = slots.front()->shape;
    for (std::size_t i = 1; i < slots.size(); ++i) shape[0] += slots[i]->shape[0];
    return shape;
}

Decoder::Decoder(ModelConfig config, const WeightLayout& layout, std::span<std::byte> memory)
    : Decoder(std::move(config), layout, [memory](const std::vector<const WeightSlot*>& slots) {
          return at::from_blob(memory.data() + slots.front()->offset, stacked_shape(slots),
                               at::TensorOptions().dtype(torch::kFloat32));
      }) {}

Decoder::Decoder(ModelConfig config, const WeightLayout& layout, const TensorOf& tensor) : config_(std::move(config)) {
    std::map<std::string, const WeightSlot*> slots;
    for (const auto& slot : layout.slots) slots[slot.name] = &slot;
    const auto stacked = [&](const std::vector<std::string>& names) {
        std::vector<const WeightSlot*> chosen;
        for (const auto& name : names) chosen.push_back(slots.at(name));
        return tensor(chosen);
    };
    embedding_ = stacked({embedding_name});
    for (std::int64_t b = 0; b < config_.blocks; ++b) {
        auto& block = blocks_.emplace_back();
        for (auto& group : block_groups(config_)) {
            for (auto& name : group.names) name = block_prefix(b) + name;
            group.of(block) = stacked(group.names);
        }
    }
    final_norm_ = stacked({final_norm_name});
    head_ = config_.tied_embedding ? embedding_ : stacked({head_name});
    pads_ = better_padded(embedding_);

    const auto half = config_.head_dim / 2;
    inverse_frequencies_ = at::empty({half}, at::TensorOptions().dtype(torch::kFloat32));
    for (std::int64_t i = 0; i < half; ++i) {
        const double frequency =
            std::pow(config_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config_.head_dim));
        inverse_frequencies_[i] = config_.rope_scaling ? scaled_frequency(frequency, *config_.rope_scaling) : frequency;
    }
    inverse_frequencies_ = inverse_frequencies_.to(embedding_.device());
}

Decoder Decoder::to(torch::Device device, torch::ScalarType dtype) const {
    Decoder copy(*this);
    const auto move = [&](Tensor& tensor) { tensor = tensor.to(device, dtype); };
    move(copy.embedding_);
    for (auto& block : copy.blocks_)
        for (const auto& group : block_groups(config_)) move(group.of(block));
    move(copy.final_norm_);
    if (config_.tied_embedding)
        copy.head_ = copy.embedding_;
    else
        move(copy.head_);
    copy.inverse_frequencies_ = inverse_frequencies_.to(device);
    copy.pads_ = better_padded(copy.embedding_);
    return copy;
}

Decoder Decoder::padded() const {
    Decoder copy(*this);
    copy.pads_ = true;
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
    const auto type = accumulate_type(embedding_.scalar_type());
    return {angles.cos().to(type), angles.sin().to(type)};
}

}  // namespace idistill::model
