#include "idistill/model/model_config.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "config_file.hpp"
#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"

namespace idistill::model {
namespace {

using nlohmann::json;

const std::string supported = "Supported: Llama 2 and 3, SmolLM2 (llama), Qwen2 and Qwen2.5 (qwen2), Qwen3 (qwen3).";

/// What a family does where config.json is silent (configuration_{llama,qwen2,qwen3}.py of transformers).
struct Family {
    const char* name;
    const char* architecture;
    std::int64_t vocabulary, intermediate, max_positions;
    std::optional<std::int64_t> kv_heads;  ///< when the key is missing; nothing: as many as heads
    std::optional<std::int64_t> head_dim;  ///< nothing: hidden / heads
};
constexpr Family families[] = {
    {"llama", "LlamaForCausalLM", 32000, 11008, 2048, std::nullopt, std::nullopt},
    {"qwen2", "Qwen2ForCausalLM", 151936, 22016, 32768, 32, std::nullopt},
    {"qwen3", "Qwen3ForCausalLM", 151936, 22016, 32768, 32, 128},
};

/// transformers would read the file that this key names, whatever lies beside it.
void refuse_named_weights(const ConfigFile& file) {
    const json name = file.value("transformers_weights");
    if (!name.is_null() && name != "model.safetensors")
        file.refuse("transformers_weights", "no other file than model.safetensors or model.safetensors.index.json",
                    ConfigFile::shown(name), "Save the model again with transformers' save_pretrained.");
}

const Family& family_of(const ConfigFile& file) {
    const json type = file.value("model_type");
    for (const Family& family : families) {
        if (type != family.name) continue;
        const json architectures = file.value("architectures");
        if (architectures.is_array() && !architectures.empty() && architectures[0] != family.architecture) {
            file.refuse("architectures", family.architecture, ConfigFile::shown(architectures[0]),
                        "Only causal language models with their head can be used. " + supported);
        }
        return family;
    }
    file.refuse("model_type", "llama, qwen2 or qwen3", ConfigFile::shown(type), supported);
}

void refuse_unsupported(const ConfigFile& file) {
    const json activation = file.value("hidden_act");
    if (!activation.is_null() && activation != "silu") {
        file.refuse("hidden_act", "\"silu\"", ConfigFile::shown(activation),
                    "Other activations are not computed. " + supported);
    }
    if (!file.value("quantization_config").is_null()) {
        file.refuse("quantization_config", "no quantisation",
                    file.value("quantization_config").value("quant_method", json("one")).dump(),
                    "Give the original model with weights in F32, BF16 or F16.");
    }
}

void refuse_sliding_windows(const ConfigFile& file) {
    const std::string remedy = "Only full attention is computed: choose a model without sliding windows.";
    if (file.flag("use_sliding_window", false)) file.refuse("use_sliding_window", "false", "true", remedy);
    for (const auto& type : file.value("layer_types")) {
        if (type != "full_attention")
            file.refuse("layer_types", "\"full_attention\" in every block", type.dump(), remedy);
    }
}

/// What to do about a rotary scaling that is not computed. Its other numbers stay: a theta that is left out with the
/// object around it would become 10,000.
std::string other_rope(const json& type, const std::string& key, double theta) {
    const std::string original =
        type == "dynamic" ? "Up to max_position_embeddings tokens it is the same as default: if "
                            "no sample is longer,"
                          : "It changes what the model computes, of short samples too: only if it was added to a "
                            "model that was trained without it (as Qwen's pages offer yarn for long texts),";
    return fmt::format(
        "Other rotary scalings are not computed. {} set {}.rope_type to \"default\" in a copy of the model, "
        "and nothing else (rope_theta stays {}).",
        original, key, shortest(theta));
}

/// transformers 4 has rope_theta and rope_scaling (`type` or `rope_type`), transformers 5 both in rope_parameters;
/// a non-empty rope_scaling comes first, and a theta inside the object before one outside, as transformers reads them.
void read_rope(const ConfigFile& file, ModelConfig& config) {
    json rope = file.value("rope_scaling");
    const bool old_style = !rope.is_null() && rope != json::object();
    const std::string key = old_style ? "rope_scaling" : "rope_parameters";
    if (!old_style) rope = file.value(key);
    if (rope.is_null()) rope = json::object();
    if (!rope.is_object()) file.refuse(key, "an object", ConfigFile::shown(rope), correct_value);
    config.rope_theta = file.number(rope, key + ".", "rope_theta", file.number("rope_theta", 10000.0));

    json type = rope.value("rope_type", json());
    if (type.is_null()) type = rope.value("type", json("default"));
    const json partial = rope.value("partial_rotary_factor", file.value("partial_rotary_factor"));
    if (!partial.is_null() && partial != 1.0) {
        file.refuse("partial_rotary_factor", "1", ConfigFile::shown(partial),
                    "Rotary embeddings over part of a head are not computed. " + supported);
    }
    for (const auto& [name, inner] : rope.items())
        if (inner.is_object())
            file.refuse(key + "." + name, "a number or a text", ConfigFile::shown(inner),
                        "Rotary embeddings that differ between blocks are not computed. " + supported);
    if (type == "default") return;
    if (type != "linear" && type != "llama3")
        file.refuse(key + ".rope_type", "default, linear or llama3", ConfigFile::shown(type),
                    other_rope(type, key, config.rope_theta));
    RopeScaling scaling;
    scaling.type = type.get<std::string>();
    scaling.factor = file.number(rope, key + ".", "factor", std::nullopt);
    if (type == "llama3") {
        scaling.low_frequency_factor = file.number(rope, key + ".", "low_freq_factor", std::nullopt);
        scaling.high_frequency_factor = file.number(rope, key + ".", "high_freq_factor", std::nullopt);
        // transformers: one at the top level first, then the scaling's own, then max_position_embeddings
        const double fallback =
            file.number(rope, key + ".", "original_max_position_embeddings", static_cast<double>(config.max_positions));
        scaling.original_positions = file.number("original_max_position_embeddings", fallback);
        if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
            file.refuse(key + ".high_freq_factor", "more than low_freq_factor",
                        ConfigFile::shown(rope["high_freq_factor"]), correct_value);
        }
    }
    config.rope_scaling = scaling;
}

void check_heads(const ConfigFile& file, const ModelConfig& config) {
    if (config.heads % config.kv_heads != 0) {
        file.refuse("num_key_value_heads", "a divisor of num_attention_heads = " + std::to_string(config.heads),
                    std::to_string(config.kv_heads), correct_value);
    }
    if (config.head_dim % 2 != 0) {
        file.refuse("head_dim", "an even number (rotary embeddings turn pairs)", std::to_string(config.head_dim),
                    correct_value);
    }
}

}  // namespace

ModelConfig read_model_config(const std::string& model_directory) {
    const ConfigFile file(model_directory);
    const Family& family = family_of(file);
    refuse_unsupported(file);
    refuse_named_weights(file);
    const bool llama = family.name == std::string("llama");
    const bool qwen2 = family.name == std::string("qwen2");
    if (!llama) refuse_sliding_windows(file);

    ModelConfig config;
    config.family = family.name;
    config.vocabulary = file.size("vocab_size", family.vocabulary);
    config.hidden = file.size("hidden_size", 4096);
    config.intermediate = file.size("intermediate_size", family.intermediate);
    config.blocks = file.size("num_hidden_layers", 32);
    config.heads = file.size("num_attention_heads", 32);
    config.max_positions = file.size("max_position_embeddings", family.max_positions);
    config.kv_heads = file.size(
        "num_key_value_heads", file.has("num_key_value_heads") ? config.heads : family.kv_heads.value_or(config.heads));
    if (!family.head_dim && file.value("head_dim").is_null() && config.hidden % config.heads != 0) {
        file.refuse("hidden_size", "a multiple of num_attention_heads = " + std::to_string(config.heads),
                    std::to_string(config.hidden), correct_value);
    }
    config.head_dim =
        file.size("head_dim", family.head_dim.value_or(std::max<std::int64_t>(1, config.hidden / config.heads)));
    config.norm_epsilon = file.number("rms_norm_eps", 1e-6);
    config.tied_embedding = file.flag("tie_word_embeddings", false);
    const bool bias = !qwen2 && file.flag("attention_bias", false);
    config.attention_bias = bias || qwen2;  // Qwen2 has it on q, k, v, always
    config.attention_output_bias = bias;
    config.mlp_bias = llama && file.flag("mlp_bias", false);
    config.query_key_norm = !llama && !qwen2;
    read_rope(file, config);
    check_heads(file, config);
    return config;
}

std::vector<LinearLayer> linear_layers(const ModelConfig& config) {
    const std::int64_t hidden = config.hidden;
    const std::int64_t query = config.heads * config.head_dim;
    const std::int64_t key = config.kv_heads * config.head_dim;
    struct Kind {
        const char* name;
        std::int64_t outputs, inputs;
    };
    const Kind kinds[] = {
        {"self_attn.q_proj", query, hidden},
        {"self_attn.k_proj", key, hidden},
        {"self_attn.v_proj", key, hidden},
        {"self_attn.o_proj", hidden, query},
        {"mlp.gate_proj", config.intermediate, hidden},
        {"mlp.up_proj", config.intermediate, hidden},
        {"mlp.down_proj", hidden, config.intermediate},
    };
    std::vector<LinearLayer> layers;
    for (std::int64_t block = 0; block < config.blocks; ++block) {
        for (const Kind& kind : kinds) {
            layers.push_back(
                {"model.layers." + std::to_string(block) + "." + kind.name, block, kind.outputs, kind.inputs});
        }
    }
    return layers;
}

std::vector<LinearLayer> chosen_layers(const ModelConfig& config, const std::string& regex) {
    std::regex pattern;
    try {
        pattern.assign(regex, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
        throw Error(ExitCode::usage, {"--parameters",
                                      {},
                                      "a regular expression",
                                      in_quotes(regex) + " (" + error.what() + ")",
                                      "For example --parameters down_proj."});
    }
    std::vector<LinearLayer> chosen;
    for (auto& layer : linear_layers(config)) {
        if (std::regex_search(layer.name, pattern)) chosen.push_back(std::move(layer));
    }
    if (chosen.empty()) {
        const std::string last = std::to_string(config.blocks - 1);
        throw Error(ExitCode::usage, {"--parameters",
                                      {},
                                      "a regular expression that matches the name of a linear layer",
                                      in_quotes(regex) + ", which matches none",
                                      "Names are model.layers.B.self_attn.{q,k,v,o}_proj and "
                                      "model.layers.B.mlp.{gate,up,down}_proj, B from 0 to " +
                                          last + "."});
    }
    return chosen;
}

}  // namespace idistill::model
