// config.json of known models in the styles of transformers 4 and 5, and what is refused.

#include "idistill/model/model_config.hpp"

#include <nlohmann/json.hpp>

#include "failure_of.hpp"
#include "idistill/model/cost.hpp"
#include "temporary_folder.hpp"

using namespace idistill;
using namespace idistill::model;
using namespace idistill::test;
using nlohmann::json;

namespace {

const char* const smollm2 =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 576,
 "intermediate_size": 1536, "max_position_embeddings": 8192, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
 "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
 "torch_dtype": "bfloat16", "vocab_size": 49152, "attention_bias": false, "mlp_bias": false})";

const char* const llama32 =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 64, "hidden_act": "silu",
 "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
 "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
 "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "vocab_size": 128256})";

const char* const qwen25 =
    R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
 "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "num_attention_heads": 14, "num_hidden_layers": 24,
 "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
 "use_sliding_window": false, "vocab_size": 151936})";

const char* const qwen3 =
    R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false, "head_dim": 128,
 "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
 "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
 "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936})";

ModelConfig read(const json& content) {
    const TemporaryFolder folder;
    folder.file("config.json", content.dump());
    return read_model_config(folder.path());
}

/// transformers 5: rope_theta and rope_scaling together in rope_parameters.
json as_version_5(const char* text) {
    json content = json::parse(text);
    json rope = content.contains("rope_scaling") && content["rope_scaling"].is_object()
                    ? content["rope_scaling"]
                    : json{{"rope_type", "default"}};
    rope["rope_theta"] = content["rope_theta"];
    content.erase("rope_theta");
    content.erase("rope_scaling");
    content["rope_parameters"] = rope;
    content["layer_types"] =
        std::vector<std::string>(content["num_hidden_layers"].get<std::size_t>(), "full_attention");
    return content;
}

json changed(const char* text, const std::string& key, const json& value) {
    json content = json::parse(text);
    content[key] = value;
    return content;
}

Failure refused(const json& content) {
    return failure_of(ExitCode::bad_input, [&] { read(content); });
}

void check_llama32(const ModelConfig& c) {
    BOOST_TEST((c.family == "llama" && c.head_dim == 64 && c.heads == 32 && c.kv_heads == 8 && c.blocks == 16));
    BOOST_TEST(c.rope_theta == 500000.0);
    BOOST_REQUIRE(c.rope_scaling.has_value());
    BOOST_TEST((c.rope_scaling->type == "llama3" && c.rope_scaling->factor == 32.0 &&
                c.rope_scaling->low_frequency_factor == 1.0));
    BOOST_TEST((c.rope_scaling->high_frequency_factor == 4.0 && c.rope_scaling->original_positions == 8192.0));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_config)

BOOST_AUTO_TEST_CASE(smollm2_135m) {
    for (const auto& content : {json::parse(smollm2), as_version_5(smollm2)}) {
        const auto c = read(content);
        BOOST_TEST((c.family == "llama" && c.vocabulary == 49152 && c.hidden == 576 && c.intermediate == 1536 &&
                    c.blocks == 30));
        BOOST_TEST((c.heads == 9 && c.kv_heads == 3 && c.head_dim == 64 && c.max_positions == 8192));
        BOOST_TEST((c.norm_epsilon == 1e-5 && c.rope_theta == 100000.0 && !c.rope_scaling && c.tied_embedding));
        BOOST_TEST((!c.attention_bias && !c.attention_output_bias && !c.mlp_bias && !c.query_key_norm));
    }
}

BOOST_AUTO_TEST_CASE(llama_32_with_its_rope_scaling) {
    check_llama32(read(json::parse(llama32)));
    check_llama32(read(as_version_5(llama32)));
    json fallback = json::parse(llama32);
    fallback["rope_scaling"].erase("original_max_position_embeddings");
    BOOST_TEST(read(fallback).rope_scaling->original_positions == 131072.0);
    const auto linear = read(changed(smollm2, "rope_scaling", {{"type", "linear"}, {"factor", 2.0}}));
    BOOST_TEST(
        (linear.rope_scaling->type == "linear" && linear.rope_scaling->factor == 2.0 && linear.rope_theta == 100000.0));
}

BOOST_AUTO_TEST_CASE(qwen25_and_qwen3) {
    for (const auto& content : {json::parse(qwen25), as_version_5(qwen25)}) {
        const auto c = read(content);
        BOOST_TEST((c.family == "qwen2" && c.attention_bias && !c.attention_output_bias && !c.query_key_norm &&
                    c.tied_embedding));
        BOOST_TEST((c.head_dim == 64 && c.kv_heads == 2 && c.rope_theta == 1e6 && c.norm_epsilon == 1e-6));
    }
    for (const auto& content : {json::parse(qwen3), as_version_5(qwen3)}) {
        const auto c = read(content);
        BOOST_TEST((c.family == "qwen3" && c.query_key_norm && !c.attention_bias && c.head_dim == 128 &&
                    c.heads == 16 && c.rope_theta == 1e6));
    }
    const auto biased = read(changed(qwen3, "attention_bias", true));
    BOOST_TEST((biased.attention_bias && biased.attention_output_bias));
}

BOOST_AUTO_TEST_CASE(missing_keys_are_what_transformers_makes_of_them) {
    const auto llama = read({{"model_type", "llama"}});
    BOOST_TEST(
        (llama.vocabulary == 32000 && llama.hidden == 4096 && llama.intermediate == 11008 && llama.blocks == 32));
    BOOST_TEST((llama.heads == 32 && llama.kv_heads == 32 && llama.head_dim == 128 && llama.max_positions == 2048));
    BOOST_TEST(
        (llama.norm_epsilon == 1e-6 && llama.rope_theta == 10000.0 && !llama.tied_embedding && !llama.rope_scaling));
    const auto two = read({{"model_type", "qwen2"}});
    BOOST_TEST((two.vocabulary == 151936 && two.intermediate == 22016 && two.kv_heads == 32 && two.head_dim == 128 &&
                two.max_positions == 32768));
    const auto three = read({{"model_type", "qwen3"}, {"num_attention_heads", 64}});
    BOOST_TEST((three.kv_heads == 32 && three.head_dim == 128 && !three.attention_bias));
    const auto null = read({{"model_type", "qwen2"}, {"num_attention_heads", 16}, {"num_key_value_heads", nullptr}});
    BOOST_TEST((null.kv_heads == 16 && null.head_dim == 256));
    const auto all_biases =
        read({{"model_type", "llama"}, {"attention_bias", true}, {"mlp_bias", true}, {"pretraining_tp", 2}});
    BOOST_TEST((all_biases.attention_bias && all_biases.attention_output_bias && all_biases.mlp_bias));
}

BOOST_AUTO_TEST_CASE(what_is_not_computed_is_refused_by_name) {
    const std::vector<std::pair<json, std::string>> all{
        {changed(smollm2, "model_type", "mistral"), "model_type"},
        {changed(smollm2, "model_type", nullptr), "model_type"},
        {changed(smollm2, "architectures", {"LlamaForSequenceClassification"}), "architectures"},
        {changed(smollm2, "hidden_act", "gelu"), "hidden_act"},
        {changed(smollm2, "quantization_config", {{"quant_method", "gptq"}}), "quantization_config"},
        {changed(qwen25, "use_sliding_window", true), "use_sliding_window"},
        {changed(qwen3, "layer_types", {"full_attention", "sliding_attention"}), "layer_types"},
        {changed(smollm2, "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}), "rope_scaling.rope_type"},
        {changed(smollm2, "rope_parameters", {{"rope_type", "dynamic"}, {"factor", 4.0}}), "rope_parameters.rope_type"},
        {changed(smollm2, "rope_scaling", {{"type", "linear"}}), "rope_scaling.factor"},
        {changed(smollm2, "rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}), "rope_scaling.low_freq_factor"},
        {changed(smollm2, "rope_scaling", 3), "rope_scaling"},
        {changed(smollm2, "rope_parameters",
                 {{"full_attention", {{"rope_type", "default"}}}, {"sliding_attention", {{"rope_type", "default"}}}}),
         "rope_parameters.full_attention"},
        {changed(smollm2, "transformers_weights", "other.safetensors"), "transformers_weights"},
        {changed(smollm2, "partial_rotary_factor", 0.5), "partial_rotary_factor"},
        {changed(smollm2, "hidden_size", 577), "hidden_size"},
        {changed(smollm2, "hidden_size", "576"), "hidden_size"},
        {changed(smollm2, "hidden_size", 576.5), "hidden_size"},
        {changed(smollm2, "num_hidden_layers", 0), "num_hidden_layers"},
        {changed(smollm2, "vocab_size", -1), "vocab_size"},
        {changed(smollm2, "num_key_value_heads", 2), "num_key_value_heads"},
        {changed(qwen3, "head_dim", 127), "head_dim"},
        {changed(smollm2, "rms_norm_eps", "small"), "rms_norm_eps"},
        {changed(smollm2, "rope_theta", -1), "rope_theta"},
        {changed(smollm2, "tie_word_embeddings", "yes"), "tie_word_embeddings"},
    };
    for (const auto& [content, key] : all) {
        BOOST_TEST_CONTEXT(key << " in " << content.dump()) {
            const auto failure = refused(content);
            BOOST_TEST(failure.field == key);
            BOOST_TEST(contains(failure.where, "/config.json"));
            BOOST_TEST((!failure.expected.empty() && !failure.found.empty() && !failure.remedy.empty()));
        }
    }
    BOOST_TEST(contains(refused(changed(smollm2, "model_type", "mistral")).remedy, "Qwen3"));
}

BOOST_AUTO_TEST_CASE(the_remedy_for_a_rotary_scaling_changes_no_other_number) {
    const json yarn{{"rope_type", "yarn"}, {"factor", 4.0}, {"rope_theta", 1e6}};
    for (const auto* type : {"yarn", "dynamic", "longrope"}) {
        for (const bool version_5 : {true, false}) {
            auto content = json::parse(qwen25);
            const std::string key = version_5 ? "rope_parameters" : "rope_scaling";
            content[key] = yarn;
            content[key]["rope_type"] = type;
            if (version_5)
                content.erase("rope_theta");
            else
                content[key].erase("rope_theta");
            const auto remedy = refused(content).remedy;
            BOOST_TEST(contains(remedy, "set " + key + ".rope_type to \"default\""), remedy);
            BOOST_TEST(contains(remedy, "rope_theta stays 1e+06"), remedy);
            BOOST_TEST(contains(remedy, "if no sample is longer") == (type == std::string("dynamic")), remedy);
            content[key]["rope_type"] = "default";  // as the remedy says
            const auto config = read(content);
            BOOST_TEST((config.rope_theta == 1e6 && !config.rope_scaling));
        }
    }
}

BOOST_AUTO_TEST_CASE(files_that_are_none) {
    const TemporaryFolder folder;
    const auto refused_file = [&](const std::string& text) {
        folder.file("config.json", text);
        return failure_of(ExitCode::bad_input, [&] { read_model_config(folder.path()); });
    };
    const auto broken = refused_file("{\"model_type\": \"llama\",");
    BOOST_TEST((broken.expected == "JSON" && contains(broken.found, "line 1")));
    BOOST_TEST((contains(broken.remedy, "Correct the file, or download it again")));
    BOOST_TEST(refused_file("[1]").expected == "a JSON object");
    const auto pointer = refused_file("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 700\n");
    BOOST_TEST((pointer.found == "a Git LFS pointer" && contains(pointer.remedy, folder.path() + " lfs pull")));
}

BOOST_AUTO_TEST_CASE(a_file_that_can_be_read_is_not_called_damaged) {
    for (const auto& content : {changed(smollm2, "num_key_value_heads", 2), changed(smollm2, "hidden_size", "576"),
                                changed(smollm2, "rope_theta", -1)})
        BOOST_TEST(!contains(refused(content).remedy, "damaged"));
}

BOOST_AUTO_TEST_CASE(layers_in_forward_order_with_their_shapes) {
    const auto layers = linear_layers(read(json::parse(qwen3)));
    BOOST_REQUIRE(layers.size() == 28U * 7U);
    const std::vector<std::string> names{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    const std::vector<std::pair<std::int64_t, std::int64_t>> shapes{
        {2048, 1024}, {1024, 1024}, {1024, 1024}, {1024, 2048}, {3072, 1024}, {3072, 1024}, {1024, 3072}};
    for (std::size_t i = 0; i < layers.size(); ++i) {
        BOOST_TEST(layers[i].name == "model.layers." + std::to_string(i / 7) + "." + names[i % 7]);
        BOOST_TEST(layers[i].block == static_cast<std::int64_t>(i / 7));
        BOOST_TEST((layers[i].outputs == shapes[i % 7].first && layers[i].inputs == shapes[i % 7].second));
    }
}

BOOST_AUTO_TEST_CASE(layers_by_regular_expression) {
    const auto model = read(json::parse(smollm2));
    BOOST_TEST(chosen_layers(model, "down_proj").size() == 30U);
    BOOST_TEST(chosen_layers(model, "").size() == 210U);
    const auto two = chosen_layers(model, "layers\\.(3|12)\\.self_attn\\.[qk]_proj");
    BOOST_REQUIRE(two.size() == 4U);
    BOOST_TEST((two[0].name == "model.layers.3.self_attn.q_proj" && two[3].block == 12));
    const auto none = failure_of(ExitCode::usage, [&] { chosen_layers(model, "lm_head"); });
    BOOST_TEST((contains(none.found, "lm_head") && contains(none.remedy, "0 to 29")));
    BOOST_TEST(contains(failure_of(ExitCode::usage, [&] { chosen_layers(model, "a(b"); }).found, "a(b"));
}

BOOST_AUTO_TEST_CASE(the_number_of_weights_is_the_published_one) {
    // parameters as the models' pages and transformers count them
    const std::vector<std::pair<const char*, double>> all{
        {smollm2, 134515008.0}, {llama32, 1235814400.0}, {qwen25, 494032768.0}, {qwen3, 596049920.0}};
    for (const auto& [text, weights] : all) {
        const auto model = read(json::parse(text));
        BOOST_TEST(weight_bytes(model) == 4.0 * weights);
    }
}

BOOST_AUTO_TEST_SUITE_END()
