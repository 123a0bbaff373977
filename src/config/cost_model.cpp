#include "idistill/config/cost_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <string_view>

#include "idistill/report/error.hpp"

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

void check_sketch_dim(const std::string& sketch, std::int64_t sketch_dim, const std::vector<LinearLayer>& chosen) {
    if (sketch != "kronecker" && sketch != "hadamard") return;
    const auto layers = static_cast<std::int64_t>(chosen.size());
    const std::string found = std::to_string(sketch_dim);
    if (sketch_dim < layers) {
        throw Error(ExitCode::usage, {"--sketch-dim",
                                      {},
                                      "at least " + std::to_string(layers) + ", one number for every chosen layer",
                                      found,
                                      "Give a larger --sketch-dim, or choose fewer layers with --parameters."});
    }
    for (std::int64_t i = 0; sketch == "hadamard" && i < layers; ++i) {
        const auto& layer = chosen[static_cast<std::size_t>(i)];
        const std::int64_t share = sketch_dim / layers + (i < sketch_dim % layers ? 1 : 0);
        if (share <= padded_entries(layer)) continue;
        throw Error(
            ExitCode::usage,
            {"--sketch-dim", layer.name, "at most " + std::to_string(padded_entries(layer)) + " numbers for this layer",
             std::to_string(share) + ", its share of " + found, "Give a smaller --sketch-dim, or --sketch none."});
    }
}

SketchShape sketch_shape(const Settings& settings, const std::vector<LinearLayer>& chosen) {
    SketchShape shape;
    const auto layers = static_cast<std::int64_t>(chosen.size());
    check_sketch_dim(settings.sketch, settings.sketch_dim, chosen);
    if (settings.sketch == "kronecker") {
        std::int64_t smallest = std::min(chosen.front().inputs, chosen.front().outputs);
        for (const auto& layer : chosen) smallest = std::min({smallest, layer.inputs, layer.outputs});
        const std::int64_t area = settings.sketch_dim / layers;
        shape.side = std::min(static_cast<std::int64_t>(std::sqrt(static_cast<double>(area))), smallest);
        shape.width = layers * shape.side * shape.side;
    } else if (settings.sketch == "none") {
        for (const auto& layer : chosen) shape.width += layer.inputs * layer.outputs;
    } else {
        shape.width = settings.sketch_dim;
    }
    return shape;
}

std::int64_t padded_entries(const LinearLayer& layer) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(layer.inputs * layer.outputs)));
}

std::int64_t whole_embedding_width(const Settings& settings, const ModelConfig& model) {
    return (settings.embedding == "hidden" ? 2 : settings.jvp_tangents) * model.hidden;
}

std::int64_t embedding_width(const Settings& settings, const ModelConfig& model) {
    return std::min(whole_embedding_width(settings, model), settings.embedding_dim);
}

CostModel::CostModel(const ModelConfig& model, const Settings& settings)
    : model_(model),
      settings_(settings),
      all_(linear_layers(model)),
      chosen_(chosen_layers(model, settings.parameters)),
      sketch_(contracts_with_tasks(settings) ? SketchShape{} : sketch_shape(settings, chosen_)),
      embedding_width_(embedding_width(settings, model)) {}

double CostModel::rows_of(const LinearLayer& layer, double tokens, double labels) const {
    return layer.block == model_.blocks - 1 && !is_key_or_value(layer) ? labels : tokens;
}

/// Forward and backward for activations.
double CostModel::passes(double tokens, double labels) const {
    const double head = 2.0 * labels * product(model_.vocabulary, model_.hidden);
    const std::int64_t lowest = chosen_.front().block;
    const PartialBackward partial = partial_backward(chosen_);
    double flops = 2.0 * head;
    for (const auto& layer : all_) {
        const bool backward = layer.block > lowest || (layer.block == lowest && partial.needs(layer));
        flops += (backward ? 4.0 : 2.0) * rows_of(layer, tokens, labels) * entries(layer);
    }
    for (std::int64_t block = 0; block < model_.blocks; ++block) {
        const double queries = block == model_.blocks - 1 ? labels : tokens;
        const double products = 2.0 + (block > lowest ? 4.0 : block == lowest ? partial.attention_products : 0.0);
        flops += products * 2.0 * product(model_.heads, model_.head_dim) * pairs(tokens, queries);
    }
    return flops;
}

double CostModel::sketch_and_norm(const LinearLayer& layer, double rows, GradientKind kind) const {
    const double size = entries(layer);
    const auto side = static_cast<double>(sketch_.side);
    if (settings_.sketch == "kronecker" && kind == GradientKind::plain) {
        return 2.0 * rows * side * static_cast<double>(layer.inputs + layer.outputs) + 2.0 * rows * side * side +
               norm_without_gradient(layer, rows);
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
    double flops = passes(count, predicted);
    for (const auto& layer : chosen_) flops += sketch_and_norm(layer, rows_of(layer, count, predicted), kind);
    return flops;
}

double CostModel::contraction(std::int64_t tokens, std::int64_t labels, std::int64_t directions,
                              GradientKind kind) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    const auto products = static_cast<double>(directions);
    double flops = passes(count, predicted);
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
    double flops = passes(count, predicted);
    for (const auto& layer : chosen_) flops += 2.0 * rows_of(layer, count, predicted) * entries(layer);
    return flops;
}

double CostModel::scores(std::int64_t targets) const { return 2.0 * product(sketch_.width, targets); }

double CostModel::embedding(std::int64_t tokens) const {
    const auto count = static_cast<double>(tokens);
    const bool hidden = settings_.embedding == "hidden";
    const double tangents = hidden ? 0.0 : static_cast<double>(settings_.jvp_tangents);
    const auto rank = static_cast<double>(settings_.jvp_rank);
    const std::int64_t last = settings_.jvp_blocks - 1;
    double flops = 0.0;
    for (const auto& layer : all_) {
        if (layer.block > last) break;
        const bool pruned = !hidden && layer.block == last && !is_key_or_value(layer);
        const double rows = pruned ? 1.0 : count;
        const double direction = rank > 0.0 ? rank * static_cast<double>(layer.inputs + layer.outputs) : entries(layer);
        flops += 2.0 * rows * ((1.0 + tangents) * entries(layer) + tangents * direction);
    }
    for (std::int64_t block = 0; block <= last; ++block) {
        const double queries = !hidden && block == last ? 1.0 : count;
        flops += (4.0 + 8.0 * tangents) * product(model_.heads, model_.head_dim) * pairs(count, queries);
    }
    flops += 2.0 * tangents * count * rank * static_cast<double>(model_.hidden);
    const std::int64_t whole = whole_embedding_width(settings_, model_);
    return whole > embedding_width_ ? flops + 2.0 * product(whole, embedding_width_) : flops;
}

double CostModel::propagation(std::int64_t landmarks, std::int64_t columns) const {
    return 2.0 * product(landmarks, embedding_width_ + columns + 1);
}

}  // namespace idistill::config
