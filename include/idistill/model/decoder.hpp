#pragma once
// The decoder's weights and geometry: one structure for Llama, Qwen2 and Qwen3, their differences being data
// (ModelConfig).

#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"

namespace idistill::model {

/// y = x weight' + bias; weight (outputs x inputs), bias (outputs) or undefined. Weights never require gradients.
struct Linear {
    torch::Tensor weight;
    torch::Tensor bias;
};

/// One block. q, k, v and gate, up are stored one below the other, so that each group is one matrix product.
struct Block {
    torch::Tensor input_norm;      ///< (d)
    Linear qkv;                    ///< ((heads + 2 kv_heads) head_dim x d)
    torch::Tensor query_norm;      ///< (head_dim) or undefined
    torch::Tensor key_norm;        ///< (head_dim) or undefined
    Linear output;                 ///< (d x heads head_dim)
    torch::Tensor attention_norm;  ///< (d), before the MLP
    Linear gate_up;                ///< (2F x d)
    Linear down;                   ///< (d x F)
};

/// Where every tensor of a checkpoint goes in one contiguous float32 memory, each at a 64-byte address.
struct WeightSlot {
    std::string name;  ///< as in the checkpoint, "model.layers.0.self_attn.q_proj.weight"
    std::vector<std::int64_t> shape;
    std::size_t offset = 0;  ///< bytes
};
struct WeightLayout {
    std::vector<WeightSlot> slots;
    std::size_t bytes = 0;
};
WeightLayout weight_layout(const model::ModelConfig& config);
/// Shape of slots one below the other, along the first dimension.
std::vector<std::int64_t> stacked_shape(const std::vector<const WeightSlot*>& slots);

/// A decoder over weights in memory that outlives it (tensors are views), or moved to another device or dtype.
class Decoder {
public:
    Decoder(model::ModelConfig config, const WeightLayout& layout, std::span<std::byte> memory);
    /// The same from tensors: `tensor`(slots) is one of them stacked along the first dimension, on its device.
    using TensorOf = std::function<torch::Tensor(const std::vector<const WeightSlot*>& slots)>;
    Decoder(model::ModelConfig config, const WeightLayout& layout, const TensorOf& tensor);

    [[nodiscard]] const model::ModelConfig& config() const noexcept { return config_; }
    [[nodiscard]] const torch::Tensor& embedding() const noexcept { return embedding_; }  ///< (V x d)
    [[nodiscard]] const std::vector<Block>& blocks() const noexcept { return blocks_; }
    [[nodiscard]] const torch::Tensor& final_norm() const noexcept { return final_norm_; }  ///< (d)
    [[nodiscard]] const torch::Tensor& head() const noexcept { return head_; }              ///< (V x d)
    /// Device and dtype that every pass computes on.
    [[nodiscard]] torch::TensorOptions options() const { return embedding_.options(); }

    /// A copy with all weights on another device or in another dtype.
    [[nodiscard]] Decoder to(torch::Device device, torch::ScalarType dtype) const;

    /// Whether passes give every sample of a batch the same room (padding.hpp): on devices, and in 16 bits. On a CPU
    /// one sample after the other takes less.
    [[nodiscard]] bool pads() const noexcept { return pads_; }
    /// A copy that does, whatever it computes on (tests).
    [[nodiscard]] Decoder padded() const;

    /// cos and sin (positions x head_dim / 2) of the rotary embedding for the given positions, scaled as config says.
    struct Rotation {
        torch::Tensor cosine;
        torch::Tensor sine;
    };
    [[nodiscard]] Rotation rotation(const torch::Tensor& positions) const;

private:
    model::ModelConfig config_;
    torch::Tensor embedding_;
    std::vector<Block> blocks_;
    torch::Tensor final_norm_;
    torch::Tensor head_;
    torch::Tensor inverse_frequencies_;  ///< (head_dim / 2) fp32
    bool pads_ = false;
};

/// Weight (outputs x inputs) of one linear layer: rows of a stack, shared with the decoder.
torch::Tensor weight_of(const Decoder& decoder, const model::LinearLayer& layer);

}  // namespace idistill::model
