#include "idistill/config/cost_model.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

namespace idistill::config {
namespace {

double product(std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); }
double entries(const LinearLayer& layer) { return product(layer.inputs, layer.outputs); }

bool is(const LinearLayer& layer, std::string_view kind) { return layer.name.ends_with(kind); }
bool is_key_or_value(const LinearLayer& layer) { return is(layer, "k_proj") || is(layer, "v_proj"); }

/// Pairs of a query and a key not after it, for the last `queries` of `tokens` positions.
double pairs(double tokens, double queries) { return queries * tokens - queries * (queries - 1.0) / 2.0; }

double norm_without_gradient(const LinearLayer& layer, double rows) {
    return std::min(rows * (rows + 1.0) * static_cast<double>(layer.inputs + layer.outputs),
                    2.0 * rows * entries(layer));
}

/// Sketch of a gradient from its `rows` rows.
double kronecker(const LinearLayer& layer, double rows, double side) {
    return 2.0 * rows * side * static_cast<double>(layer.inputs + layer.outputs) + 2.0 * rows * side * side;
}

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

}  // namespace

CostModel::CostModel(const ModelConfig& model, const Settings& settings)
    : model_(model),
      settings_(settings),
      all_(linear_layers(model)),
      chosen_(chosen_layers(model, settings.parameters)),
      sketch_(contracts_with_tasks(settings) ? SketchShape{} : sketch_shape(settings, chosen_)),
      embeddings_(settings.propagation == "none" ? std::vector<EmbeddingShape>{} : embedding_shapes(settings, model)) {}

double CostModel::rows_of(const LinearLayer& layer, double tokens, double outputs) const {
    return layer.block == model_.blocks - 1 && !is_key_or_value(layer) ? outputs : tokens;
}

double CostModel::passes(const std::vector<LinearLayer>& chosen, double tokens, double outputs, double labels) const {
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

/// Forward up to the lowest block that has a chosen layer.
double CostModel::forward_below_chosen(double tokens) const {
    const std::int64_t lowest = chosen_.front().block;
    double flops = 4.0 * static_cast<double>(lowest) * product(model_.heads, model_.head_dim) * pairs(tokens, tokens);
    for (const auto& layer : all_)
        if (layer.block < lowest) flops += 2.0 * tokens * entries(layer);
    return flops;
}

double CostModel::sketch_and_norm(const LinearLayer& layer, double rows, GradientKind kind) const {
    const double size = entries(layer);
    const auto side = static_cast<double>(sketch_.side);
    if (settings_.sketch == "kronecker" && kind == GradientKind::plain) {
        return kronecker(layer, rows, side) + norm_without_gradient(layer, rows);
    }
    const double gradient_and_norm = 2.0 * rows * size + 2.0 * size;
    if (settings_.sketch == "kronecker")
        return gradient_and_norm + 2.0 * side * (size + side * static_cast<double>(layer.outputs));
    if (settings_.sketch == "rademacher") return gradient_and_norm + 2.0 * static_cast<double>(sketch_.width) * size;
    if (settings_.sketch == "none") return gradient_and_norm;
    const auto padded = static_cast<double>(padded_entries(layer));
    return gradient_and_norm + padded * std::log2(padded);
}

double CostModel::gradient(std::int64_t tokens, std::int64_t labels, GradientKind kind) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) flops += sketch_and_norm(layer, rows_of(layer, count, predicted), kind);
    return flops;
}

double CostModel::contraction(std::int64_t tokens, std::int64_t labels, std::int64_t directions,
                              GradientKind kind) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    const auto products = static_cast<double>(directions);
    double flops = passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) {
        const double rows = rows_of(layer, count, predicted);
        const double size = entries(layer);
        const double by_gradient = 2.0 * rows * size + (products + 1.0) * 2.0 * size;
        flops += kind == GradientKind::preconditioned
                     ? by_gradient
                     : std::min(products * 2.0 * rows * size + norm_without_gradient(layer, rows), by_gradient);
    }
    return flops;
}

double CostModel::gradient_sum(std::int64_t tokens, std::int64_t labels) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) flops += 2.0 * rows_of(layer, count, predicted) * entries(layer);
    return flops;
}

double CostModel::hessian_product(std::int64_t tokens, std::int64_t labels) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = 2.0 * passes(chosen_, count, predicted, predicted) - forward_below_chosen(count);
    for (const auto& layer : chosen_) flops += 8.0 * rows_of(layer, count, predicted) * entries(layer);
    return flops;
}

double CostModel::scores(std::int64_t targets) const { return 2.0 * product(sketch_.width, targets); }

double CostModel::embedding(std::int64_t tokens, std::int64_t labels) const {
    double flops = 0.0;
    for (const auto& shape : embeddings_) flops += embedding(shape, tokens, labels);
    return flops;
}

double CostModel::embedding(const EmbeddingShape& shape, std::int64_t tokens, std::int64_t labels) const {
    if (shape.part.kind == EmbeddingKind::file) return 0.0;
    const auto count = static_cast<double>(tokens);
    const double projection = shape.whole > shape.states ? 2.0 * product(shape.whole, shape.states) : 0.0;
    if (shape.layers.empty())
        return states(count, shape.part.kind == EmbeddingKind::jvp ? settings_.jvp_tangents : 0) + projection;
    const auto predicted = static_cast<double>(labels);
    const double outputs = predicted + 1.0;
    double flops = passes(shape.layers, count, outputs, predicted) + projection;
    for (const auto& layer : shape.layers)
        flops += kronecker(layer, rows_of(layer, count, outputs), static_cast<double>(shape.sketch.side));
    return flops;
}

/// Hidden state, or its tangents at the last token, behind the first blocks.
double CostModel::states(double tokens, std::int64_t tangent_count) const {
    const bool hidden = tangent_count == 0;
    const auto tangents = static_cast<double>(tangent_count);
    const auto rank = static_cast<double>(settings_.jvp_rank);
    const std::int64_t last = settings_.jvp_blocks - 1;
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

double CostModel::propagation(std::int64_t landmarks, std::int64_t columns) const {
    return propagation(landmarks, columns, total_width(embeddings_));
}

double CostModel::propagation(std::int64_t landmarks, std::int64_t columns, std::int64_t width) {
    return 2.0 * product(landmarks, width + columns + 1);
}

}  // namespace idistill::config
