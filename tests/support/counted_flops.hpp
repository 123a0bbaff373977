#pragma once
// Counting FLOPs one multiply-add after the other, on a model small enough for it.

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "small_model.hpp"

namespace idistill::test {

using model::LinearLayer, model::ModelConfig;

/// Multiply-adds, counted by loops over positions, pairs and the entries of a matrix.
class Counter {
public:
    Counter(const ModelConfig& model, std::int64_t tokens) : model_(model), tokens_(tokens) {}

    void product(std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t i = 0; i < inputs; ++i) {
                for (std::int64_t o = 0; o < outputs; ++o) flops_ += 2.0;
            }
        }
    }

    /// One product over pairs of a query of `queries` and a key not after it: scores, weighted sums and their
    /// derivatives alike.
    void pair_product(const std::vector<std::int64_t>& queries) {
        for (const auto query : queries) {
            for (std::int64_t key = 0; key < tokens_; ++key) {
                if (key > query) continue;
                for (std::int64_t d = 0; d < model_.heads * model_.head_dim; ++d) flops_ += 2.0;
            }
        }
    }

    [[nodiscard]] double flops() const { return flops_; }
    void add(double flops) { flops_ += flops; }

private:
    ModelConfig model_;
    std::int64_t tokens_;
    double flops_ = 0;
};

/// Of `length` real numbers, as usually counted.
inline double spectrum_flops(std::int64_t length) {
    return 2.5 * static_cast<double>(length) * std::log2(static_cast<double>(length));
}

inline std::string kind(const LinearLayer& layer) { return layer.name.substr(layer.name.rfind('.') + 1); }

inline std::vector<std::int64_t> last_positions(std::int64_t tokens, std::int64_t count) {
    std::vector<std::int64_t> positions;
    for (std::int64_t p = tokens - count; p < tokens; ++p) positions.push_back(p);
    return positions;
}

/// Whether a chosen layer lies before `layer` in the flow of its block or in a lower block: then the gradient of the
/// layer's input is needed.
inline bool something_before(const std::vector<LinearLayer>& chosen, std::int64_t block,
                             const std::set<std::string>& before) {
    return std::any_of(chosen.begin(), chosen.end(), [&](const LinearLayer& layer) {
        return layer.block < block || (layer.block == block && before.contains(kind(layer)));
    });
}

const std::set<std::string> attention_inputs{"q_proj", "k_proj", "v_proj"};
const std::set<std::string> mlp_inputs{"q_proj", "k_proj", "v_proj", "o_proj"};
const std::set<std::string> down_inputs{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"};

inline std::set<std::string> layers_before(const std::string& layer) {
    if (layer == "down_proj") return down_inputs;
    if (layer == "gate_proj" || layer == "up_proj") return mlp_inputs;
    if (layer == "o_proj") return attention_inputs;
    return {};
}

/// Forward and backward for the chosen layers; n labels at the last positions.
inline Counter count_passes(const ModelConfig& model, const std::vector<LinearLayer>& chosen, std::int64_t tokens,
                            std::int64_t labels) {
    Counter counter(model, tokens);
    counter.product(labels, model.hidden, model.vocabulary);  // logits
    counter.product(labels, model.vocabulary, model.hidden);  // and back
    for (const auto& layer : linear_layers(model)) {
        const bool last = layer.block == model.blocks - 1 && kind(layer) != "k_proj" && kind(layer) != "v_proj";
        const std::int64_t rows = last ? labels : tokens;
        counter.product(rows, layer.inputs, layer.outputs);
        if (something_before(chosen, layer.block, layers_before(kind(layer))))
            counter.product(rows, layer.outputs, layer.inputs);
    }
    for (std::int64_t block = 0; block < model.blocks; ++block) {
        const auto queries = last_positions(tokens, block == model.blocks - 1 ? labels : tokens);
        int products = 2;  // scores and their weighted sum of values
        const bool query = something_before(chosen, block, {"q_proj"});
        const bool key = something_before(chosen, block, {"k_proj"});
        products += something_before(chosen, block, {"v_proj"}) ? 1 : 0;
        products += query || key ? 1 : 0;  // gradient of the scores
        products += (query ? 1 : 0) + (key ? 1 : 0);
        for (int i = 0; i < products; ++i) counter.pair_product(queries);
    }
    return counter;
}

/// Hidden states behind the first `blocks` blocks with tangents at the last token: directions of rank `rank`, 0: dense.
inline Counter count_tangents(const ModelConfig& model, std::int64_t tokens, std::int64_t blocks, std::int64_t tangents,
                              std::int64_t rank) {
    Counter counter(model, tokens);
    for (const auto& layer : linear_layers(model)) {
        if (layer.block >= blocks) continue;
        const bool everywhere = layer.block + 1 < blocks || kind(layer) == "k_proj" || kind(layer) == "v_proj";
        const std::int64_t rows = everywhere ? tokens : 1;
        counter.product(rows, layer.inputs, layer.outputs);  // primal
        for (std::int64_t k = 0; k < tangents; ++k) {
            counter.product(rows, layer.inputs, layer.outputs);                 // W dx
            if (rank == 0) counter.product(rows, layer.inputs, layer.outputs);  // dW x
            if (rank > 0) counter.product(rows, layer.inputs, rank);
            if (rank > 0) counter.product(rows, rank, layer.outputs);
        }
    }
    for (std::int64_t block = 0; block < blocks; ++block) {
        const auto queries = last_positions(tokens, block + 1 < blocks ? tokens : 1);
        // q k', p v; a tangent has dq k', q dk', dp v, p dv
        for (std::int64_t i = 0; i < 2 + tangents * 4; ++i) counter.pair_product(queries);
    }
    for (std::int64_t k = 0; k < tangents && rank > 0; ++k)
        counter.product(tokens, rank, model.hidden);  // of the token embedding
    return counter;
}

inline std::int64_t rows_of(const ModelConfig& model, const LinearLayer& layer, std::int64_t tokens,
                            std::int64_t labels) {
    const bool everywhere = kind(layer) == "k_proj" || kind(layer) == "v_proj";
    return layer.block == model.blocks - 1 && !everywhere ? labels : tokens;
}

/// |G|^2 by all pairs of rows (each unordered pair once) or by G itself, whichever needs less.
inline double norm_flops(std::int64_t rows, const LinearLayer& layer) {
    double by_pairs = 0;
    for (std::int64_t a = 0; a < rows; ++a) {
        for (std::int64_t b = 0; b <= a; ++b) by_pairs += 2.0 * static_cast<double>(layer.inputs + layer.outputs);
    }
    return std::min(by_pairs, 2.0 * static_cast<double>(rows * layer.inputs * layer.outputs));
}

}  // namespace idistill::test
