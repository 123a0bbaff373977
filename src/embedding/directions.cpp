#include "idistill/embedding/directions.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "idistill/model/random.hpp"

namespace idistill::embedding {
namespace {

using torch::Tensor;

/// Makes the random tensors of all directions; a parameter's numbers depend on seed, direction, name, row and column
/// alone.
class Generator {
public:
    Generator(const JvpSettings& settings, std::uint64_t seed, at::TensorOptions options)
        : settings_(settings), seed_(seed), options_(options) {}

    [[nodiscard]] Tensor normal(std::int64_t direction, const std::string& name, std::int64_t rows,
                                std::int64_t columns) const {
        return model::gaussian({seed_, "jvp direction " + std::to_string(direction), name}, rows, columns, 1.0,
                               options_);
    }

    /// One dense vector a direction; empty where the model has no such parameter.
    [[nodiscard]] std::vector<Tensor> vectors(const std::string& name, const Tensor& parameter) const {
        std::vector<Tensor> all;
        if (!parameter.defined()) return all;
        for (std::int64_t k = 0; k < settings_.tangents; ++k)
            all.push_back(normal(k, name, 1, parameter.size(0)).view({-1}));
        return all;
    }

    struct Part {
        std::string name;  ///< "model.layers.0.self_attn.q_proj"
        std::int64_t outputs;
    };

    [[nodiscard]] model::LinearDirections linear(const std::vector<Part>& parts, const model::Linear& layer) const {
        model::LinearDirections directions;
        const auto inputs = layer.weight.size(1);
        if (settings_.direction_rank > 0) {
            std::vector<Tensor> right;
            for (const auto& part : parts) {
                auto& left = directions.left.emplace_back();
                for (std::int64_t k = 0; k < settings_.tangents; ++k) {
                    right.push_back(normal(k, part.name + ".weight right", inputs, settings_.direction_rank));
                    left.push_back(normal(k, part.name + ".weight left", part.outputs, settings_.direction_rank)
                                       .t()
                                       .contiguous()
                                       .mul_(rank_scale()));
                }
            }
            directions.right = at::cat(right, 1);
        }
        for (std::int64_t k = 0; k < settings_.tangents; ++k) {
            std::vector<Tensor> weight, bias;
            for (const auto& part : parts) {
                if (settings_.direction_rank == 0)
                    weight.push_back(normal(k, part.name + ".weight", part.outputs, inputs));
                if (layer.bias.defined()) bias.push_back(normal(k, part.name + ".bias", 1, part.outputs).view({-1}));
            }
            if (!weight.empty()) directions.dense.push_back(at::cat(weight));
            if (!bias.empty()) directions.bias.push_back(at::cat(bias));
        }
        return directions;
    }

    /// tokens (T) -> (K*T x d): the directions' rows of the token embedding.
    [[nodiscard]] std::function<Tensor(const Tensor&)> embedding(std::int64_t vocabulary, std::int64_t hidden) const {
        const std::string name = "model.embed_tokens.weight";
        std::vector<Tensor> tables, right;
        for (std::int64_t k = 0; k < settings_.tangents; ++k) {
            if (settings_.direction_rank == 0) {
                tables.push_back(normal(k, name, vocabulary, hidden));
            } else {
                tables.push_back(normal(k, name + " left", vocabulary, settings_.direction_rank));
                right.push_back(
                    normal(k, name + " right", hidden, settings_.direction_rank).t().contiguous().mul_(rank_scale()));
            }
        }
        return [tables, right](const Tensor& tokens) {
            std::vector<Tensor> rows;
            for (std::size_t k = 0; k < tables.size(); ++k) {
                const auto own = tables[k].index_select(0, tokens);
                rows.push_back(right.empty() ? own : at::mm(own, right[k]));
            }
            return at::cat(rows);
        };
    }

private:
    [[nodiscard]] double rank_scale() const { return 1.0 / std::sqrt(static_cast<double>(settings_.direction_rank)); }

    JvpSettings settings_;
    std::uint64_t seed_;
    at::TensorOptions options_;
};

}  // namespace

model::Directions random_directions(const model::Decoder& decoder, std::int64_t blocks, const JvpSettings& settings,
                                    std::uint64_t seed) {
    const auto& c = decoder.config();
    const Generator generator(settings, seed, decoder.options());
    model::Directions directions;
    directions.count = settings.tangents;
    directions.embedding = generator.embedding(c.vocabulary, c.hidden);
    const auto q_width = c.heads * c.head_dim;
    const auto kv_width = c.kv_heads * c.head_dim;
    for (std::int64_t b = 0; b < blocks; ++b) {
        const auto& block = decoder.blocks()[static_cast<std::size_t>(b)];
        const auto prefix = "model.layers." + std::to_string(b) + ".";
        const auto attention = prefix + "self_attn.";
        const auto mlp = prefix + "mlp.";
        model::BlockDirections d;
        d.input_norm = generator.vectors(prefix + "input_layernorm.weight", block.input_norm);
        d.attention_norm = generator.vectors(prefix + "post_attention_layernorm.weight", block.attention_norm);
        d.query_norm = generator.vectors(attention + "q_norm.weight", block.query_norm);
        d.key_norm = generator.vectors(attention + "k_norm.weight", block.key_norm);
        d.qkv = generator.linear(
            {{attention + "q_proj", q_width}, {attention + "k_proj", kv_width}, {attention + "v_proj", kv_width}},
            block.qkv);
        d.output = generator.linear({{attention + "o_proj", c.hidden}}, block.output);
        d.gate_up =
            generator.linear({{mlp + "gate_proj", c.intermediate}, {mlp + "up_proj", c.intermediate}}, block.gate_up);
        d.down = generator.linear({{mlp + "down_proj", c.hidden}}, block.down);
        directions.blocks.push_back(std::move(d));
    }
    return directions;
}

}  // namespace idistill::embedding
