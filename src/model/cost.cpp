#include "idistill/model/cost.hpp"

#include <algorithm>
#include <string_view>

namespace idistill::model {
namespace {

double real(std::int64_t value) { return static_cast<double>(value); }
double product(std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

bool is(const LinearLayer& layer, std::string_view kind) { return layer.name.ends_with(kind); }
bool is_key_or_value(const LinearLayer& layer) { return is(layer, "k_proj") || is(layer, "v_proj"); }

/// Pairs of a query and a key not after it, for the last `queries` of `tokens` positions.
double pairs(double tokens, double queries) { return queries * tokens - queries * (queries - 1.0) / 2.0; }

/// What the chosen layers of the lowest chosen block need of the backward pass within that block.
struct PartialBackward {
    bool down = false, gate_up = false, output = false;  ///< gradients of these layers' inputs
    double attention_products = 0.0;                     ///< of the four of attention's backward pass
    [[nodiscard]] bool needs(const LinearLayer& layer) const {
        if (is(layer, "down_proj")) return down;
        if (is(layer, "gate_proj") || is(layer, "up_proj")) return gate_up;
        return is(layer, "o_proj") && output;
    }
};

PartialBackward partial_backward(const std::vector<LinearLayer>& chosen) {
    const auto has = [&chosen](std::string_view kind) {
        return std::any_of(chosen.begin(), chosen.end(), [&](const LinearLayer& layer) {
            return layer.block == chosen.front().block && is(layer, kind);
        });
    };
    PartialBackward need;
    const bool query = has("q_proj");
    const bool key = has("k_proj");
    const bool value = has("v_proj");
    need.output = query || key || value;
    need.gate_up = need.output || has("o_proj");
    need.down = need.gate_up || has("gate_proj") || has("up_proj");
    // v: P' dO. q and k: dO V', then its product with K, with Q.
    need.attention_products =
        (value ? 1.0 : 0.0) + (query || key ? 1.0 : 0.0) + (query ? 1.0 : 0.0) + (key ? 1.0 : 0.0);
    return need;
}

/// Numbers per token of one block's states: residuals, norms, q, k, v, attention, gate, up and their product.
double block_states(const ModelConfig& model) {
    return 4.0 * real(model.hidden) + real((2 * model.heads + 2 * model.kv_heads) * model.head_dim) +
           3.0 * real(model.intermediate);
}

}  // namespace

double entries(const LinearLayer& layer) { return product(layer.inputs, layer.outputs); }

double entries(const std::vector<LinearLayer>& layers) {
    double sum = 0.0;
    for (const auto& layer : layers) sum += entries(layer);
    return sum;
}

double largest_entries(const std::vector<LinearLayer>& layers) {
    double most = 0.0;
    for (const auto& layer : layers) most = std::max(most, entries(layer));
    return most;
}

double largest_weight(const ModelConfig& model) {
    return std::max(product(model.vocabulary, model.hidden), largest_entries(linear_layers(model)));
}

double weight_bytes(const ModelConfig& model) {
    const double embeddings = product(model.vocabulary, model.hidden) * (model.tied_embedding ? 1.0 : 2.0);
    double per_block = 2.0 * real(model.hidden);
    if (model.query_key_norm) per_block += 2.0 * real(model.head_dim);
    if (model.attention_bias) per_block += real((model.heads + 2 * model.kv_heads) * model.head_dim);
    if (model.attention_output_bias) per_block += real(model.hidden);
    if (model.mlp_bias) per_block += real(2 * model.intermediate + model.hidden);
    return fp32_bytes *
           (entries(linear_layers(model)) + embeddings + real(model.blocks) * per_block + real(model.hidden));
}

plan::PassBytes gradient_pass_bytes(const ModelConfig& model, std::int64_t lowest_block, const plan::Batch& batch,
                                    std::int64_t outputs) {
    const double tokens = real(batch.tokens), labels = real(batch.labels), hidden = real(model.hidden);
    const double query = real(model.heads * model.head_dim), mlp = 2.0 * real(model.intermediate);
    const double key_value = real(2 * model.kv_heads * model.head_dim);
    const double kept = 2.0 * hidden + 2.0 * query + key_value + mlp + (model.query_key_norm ? query + key_value : 0.0);
    const double blocks = real(model.blocks - lowest_block) - 1.0;
    const double last = tokens * (hidden + key_value) + real(outputs) * (2.0 * query + hidden + mlp);
    const double head =
        std::min(real(logits_bytes), fp32_bytes * std::max(real(logits_rows), labels) * real(model.vocabulary)) +
        2.0 * fp32_bytes * labels * hidden;
    return {fp32_bytes * (blocks * tokens * kept + last + tokens * block_states(model)), head};
}

double gradient_activation_bytes(const ModelConfig& model, std::int64_t lowest_block, const plan::Batch& batch,
                                 std::int64_t outputs) {
    return gradient_pass_bytes(model, lowest_block, batch, outputs).together();
}

double state_activation_bytes(const ModelConfig& model, std::int64_t tangents, std::int64_t tokens) {
    return fp32_bytes * (1.0 + real(tangents)) * real(tokens) * (block_states(model) + 2.0 * real(model.hidden));
}

PassCost::PassCost(const ModelConfig& model) : model_(model), all_(linear_layers(model)) {}

double PassCost::rows_of(const LinearLayer& layer, double tokens, double outputs) const {
    return layer.block == model_.blocks - 1 && !is_key_or_value(layer) ? outputs : tokens;
}

double PassCost::passes(const std::vector<LinearLayer>& chosen, double tokens, double outputs, double labels) const {
    const double head = 2.0 * labels * product(model_.vocabulary, model_.hidden);
    const std::int64_t lowest = chosen.front().block;
    const PartialBackward partial = partial_backward(chosen);
    double flops = 2.0 * head;
    for (const auto& layer : all_) {
        const bool backward = layer.block > lowest || (layer.block == lowest && partial.needs(layer));
        flops += (backward ? 4.0 : 2.0) * rows_of(layer, tokens, outputs) * entries(layer);
    }
    for (std::int64_t block = 0; block < model_.blocks; ++block) {
        const double queries = block == model_.blocks - 1 ? outputs : tokens;
        const double products = 2.0 + (block > lowest ? 4.0 : block == lowest ? partial.attention_products : 0.0);
        flops += products * 2.0 * product(model_.heads, model_.head_dim) * pairs(tokens, queries);
    }
    return flops;
}

double PassCost::forward(double tokens, double before, double outputs, double labels) const {
    double flops = 2.0 * labels * product(model_.vocabulary, model_.hidden);
    for (const auto& layer : all_) flops += 2.0 * rows_of(layer, tokens, outputs) * entries(layer);
    for (std::int64_t block = 0; block < model_.blocks; ++block) {
        const double queries = block == model_.blocks - 1 ? outputs : tokens;
        flops += 4.0 * product(model_.heads, model_.head_dim) * (pairs(tokens, queries) + queries * before);
    }
    return flops;
}

double PassCost::forward_below(const std::vector<LinearLayer>& chosen, double tokens) const {
    const std::int64_t lowest = chosen.front().block;
    double flops = 4.0 * static_cast<double>(lowest) * product(model_.heads, model_.head_dim) * pairs(tokens, tokens);
    for (const auto& layer : all_)
        if (layer.block < lowest) flops += 2.0 * tokens * entries(layer);
    return flops;
}

double PassCost::states(double tokens, std::int64_t blocks, std::int64_t tangent_count,
                        std::int64_t direction_rank) const {
    const bool hidden = tangent_count == 0;
    const auto tangents = static_cast<double>(tangent_count);
    const auto rank = static_cast<double>(direction_rank);
    const std::int64_t last = blocks - 1;
    double flops = 2.0 * tangents * tokens * rank * static_cast<double>(model_.hidden);
    for (const auto& layer : all_) {
        if (layer.block > last) break;
        const bool pruned = !hidden && layer.block == last && !is_key_or_value(layer);
        const double rows = pruned ? 1.0 : tokens;
        const double direction = rank > 0.0 ? rank * static_cast<double>(layer.inputs + layer.outputs) : entries(layer);
        flops += 2.0 * rows * ((1.0 + tangents) * entries(layer) + tangents * direction);
    }
    for (std::int64_t block = 0; block <= last; ++block) {
        const double queries = !hidden && block == last ? 1.0 : tokens;
        flops += (4.0 + 8.0 * tangents) * product(model_.heads, model_.head_dim) * pairs(tokens, queries);
    }
    return flops;
}

}  // namespace idistill::model
