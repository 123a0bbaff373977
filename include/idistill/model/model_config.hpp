#pragma once
// config.json of a Hugging Face model directory, read without LibTorch: the differences between Llama, Qwen2 and Qwen3
// as data.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace idistill::model {

/// Rotary frequency scaling of Llama 3.1 and later (rope_scaling / rope_parameters with type "llama3"), or "linear".
struct RopeScaling {
    std::string type;  ///< llama3 | linear
    double factor = 1.0;
    double low_frequency_factor = 1.0;
    double high_frequency_factor = 4.0;
    double original_positions = 8192.0;
};

struct ModelConfig {
    std::string family;  ///< llama | qwen2 | qwen3
    std::int64_t vocabulary = 0;
    std::int64_t hidden = 0;
    std::int64_t intermediate = 0;
    std::int64_t blocks = 0;
    std::int64_t heads = 0;
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
    double norm_epsilon = 1e-6;
    double rope_theta = 10000.0;
    std::optional<RopeScaling> rope_scaling;
    std::int64_t max_positions = 0;
    bool attention_bias = false;  ///< on q, k, v (Qwen2) - and, with output_bias, on o (Llama's attention_bias)
    bool attention_output_bias = false;
    bool mlp_bias = false;
    bool query_key_norm = false;  ///< Qwen3: RMS norm of every head's q and k
    bool tied_embedding = false;
};

/// Reads and checks DIR/config.json. Anything that this decoder does not compute (other architectures, sliding windows
/// in use, other activations, other rope types, quantised weights) throws Error(bad_input) that names it and what is
/// supported.
ModelConfig read_model_config(const std::string& model_directory);

/// One linear layer of the decoder: "model.layers.3.mlp.down_proj" with its shape.
struct LinearLayer {
    std::string name;
    std::int64_t block = 0;
    std::int64_t outputs = 0;
    std::int64_t inputs = 0;
};

/// Every linear layer of the blocks in forward order (q, k, v, o, gate, up, down per block; not the head). Pure.
std::vector<LinearLayer> linear_layers(const ModelConfig& config);

/// Those whose name matches the regex anywhere. Throws Error(usage) listing the kinds of names when none does.
std::vector<LinearLayer> chosen_layers(const ModelConfig& config, const std::string& regex);

}  // namespace idistill::model
