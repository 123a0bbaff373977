// Runs the passes on a token file and saves what they computed for comparison with transformers and PyTorch
// (tests/parity).
//   parity_probe MODEL TOKENS.h5 OUT.pt BATCH_TOKENS JVP_BLOCKS JVP_RANK LAYERS
// Gradients are those of the linear layers that the regex LAYERS names, and "norm" is over these.
// OUT.pt holds, per sample i: "logits.i", "loss", "norm", "gradient.<layer>.i"; "tangents", "hidden"; "tail" of the
// last two blocks with the maps of its sketch "tail.input.<layer>", "tail.output.<layer>"; the directions as dense
// tensors "direction.<k>.<parameter>"; and over some layers the Hessian of sum_i (i + 1) l_i times a vector,
// "hessian.<layer>" and "hessian_vector.<layer>".

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>

#include "idistill/base/philox.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/embedding/directions.hpp"
#include "idistill/embedding/encoder.hpp"
#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "idistill/model/model_config.hpp"
#include "idistill/model/passes.hpp"
#include "idistill/model/random.hpp"
#include "idistill/model/safetensors.hpp"

namespace {

using namespace idistill;
using at::Tensor;
using Saved = c10::Dict<std::string, Tensor>;

void save_logits(const model::Decoder& decoder, const data::Samples& samples, std::int64_t batch_tokens, Saved& saved) {
    std::vector<std::int32_t> lengths;
    for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(samples.offsets[i + 1] - samples.offsets[i]));
    for (const auto& members : data::pack_micro_batches(lengths, batch_tokens)) {
        std::vector<std::int64_t> own;
        for (const auto i : members) own.push_back(lengths[static_cast<std::size_t>(i)]);
        const auto batch = model::pack(decoder, samples, members, own);
        const auto all = model::logits(decoder, batch, model::all_rows(batch));
        for (std::size_t j = 0; j < members.size(); ++j)
            saved.insert("logits." + std::to_string(members[j]), all.narrow(0, batch.offsets[j], own[j]).clone());
    }
}

void save_gradients(const model::Decoder& decoder, const std::string& layers, const data::Samples& samples,
                    std::int64_t batch_tokens, Saved& saved) {
    const model::ChosenLayers chosen(decoder.config(), model::chosen_layers(decoder.config(), layers));
    const auto sketch = influence::make_sketch(influence::SketchKind::none, chosen.layers(), 0, 0, decoder.options());
    const auto rows = influence::gradient_sketches(decoder, chosen, *sketch, samples, batch_tokens);
    saved.insert("loss", rows.loss);
    saved.insert("norm", rows.norm);
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        std::int64_t offset = 0;
        for (const auto& layer : chosen.layers()) {
            saved.insert("gradient." + layer.name + "." + std::to_string(i),
                         rows.features.select(0, i)
                             .narrow(0, offset, layer.outputs * layer.inputs)
                             .view({layer.outputs, layer.inputs})
                             .clone());
            offset += layer.outputs * layer.inputs;
        }
    }
}

void save_hessian_product(const model::Decoder& decoder, const data::Samples& samples, std::int64_t batch_tokens,
                          Saved& saved) {
    const model::ChosenLayers chosen(decoder.config(),
                                     model::chosen_layers(decoder.config(), "layers\\.(0|1|2|14|29)\\."));
    std::vector<Tensor> vectors, products;
    for (const auto& layer : chosen.layers()) {
        vectors.push_back(
            model::gaussian({7, "hessian vector", layer.name}, layer.outputs, layer.inputs, 1.0, decoder.options()));
        products.push_back(at::zeros_like(vectors.back()));
    }
    const auto scale = at::arange(1, samples.size() + 1, decoder.options());
    influence::add_hessian_products(decoder, chosen, samples, scale, vectors, batch_tokens, products);
    for (std::size_t i = 0; i < products.size(); ++i) {
        saved.insert("hessian_vector." + chosen.layers()[i].name, vectors[i]);
        saved.insert("hessian." + chosen.layers()[i].name, products[i]);
    }
}

/// Dense matrices of the directions k of a stack of layers, split into its parts.
void save_linear(Saved& saved, const std::string& key, const std::vector<std::pair<std::string, std::int64_t>>& parts,
                 const model::LinearDirections& d, std::int64_t k, std::int64_t count) {
    std::int64_t row = 0;
    for (std::size_t p = 0; p < parts.size(); ++p) {
        const auto outputs = parts[p].second;
        const auto kk = static_cast<std::size_t>(k);
        if (d.right.defined()) {
            const auto rank = d.left[p][kk].size(0);
            const auto right = d.right.narrow(1, (static_cast<std::int64_t>(p) * count + k) * rank, rank);
            saved.insert(key + parts[p].first + ".weight", at::mm(right, d.left[p][kk]).t().contiguous());
        } else {
            saved.insert(key + parts[p].first + ".weight", d.dense[kk].narrow(0, row, outputs).clone());
        }
        if (!d.bias.empty()) saved.insert(key + parts[p].first + ".bias", d.bias[kk].narrow(0, row, outputs).clone());
        row += outputs;
    }
}

void save_directions(const model::Decoder& decoder, const model::Directions& directions, Saved& saved) {
    const auto& c = decoder.config();
    const auto tokens = at::arange(c.vocabulary, at::TensorOptions().dtype(at::kLong));
    const auto table = directions.embedding(tokens).view({directions.count, c.vocabulary, c.hidden});
    for (std::int64_t k = 0; k < directions.count; ++k) {
        const auto key = "direction." + std::to_string(k) + ".";
        saved.insert(key + "model.embed_tokens.weight", table.select(0, k).clone());
        for (std::size_t b = 0; b < directions.blocks.size(); ++b) {
            const auto& d = directions.blocks[b];
            const auto prefix = key + "model.layers." + std::to_string(b) + ".";
            const auto vector = [&](const std::string& name, const std::vector<Tensor>& values) {
                if (!values.empty()) saved.insert(prefix + name, values[static_cast<std::size_t>(k)]);
            };
            vector("input_layernorm.weight", d.input_norm);
            vector("post_attention_layernorm.weight", d.attention_norm);
            vector("self_attn.q_norm.weight", d.query_norm);
            vector("self_attn.k_norm.weight", d.key_norm);
            const auto kv = c.kv_heads * c.head_dim;
            save_linear(
                saved, prefix,
                {{"self_attn.q_proj", c.heads * c.head_dim}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}}, d.qkv,
                k, directions.count);
            save_linear(saved, prefix, {{"self_attn.o_proj", c.hidden}}, d.output, k, directions.count);
            save_linear(saved, prefix, {{"mlp.gate_proj", c.intermediate}, {"mlp.up_proj", c.intermediate}}, d.gate_up,
                        k, directions.count);
            save_linear(saved, prefix, {{"mlp.down_proj", c.hidden}}, d.down, k, directions.count);
        }
    }
}

/// The gradient tail of all layers of the last two blocks.
void save_tail(const model::Decoder& decoder, const data::Samples& samples, std::int64_t batch_tokens, Saved& saved) {
    constexpr std::int64_t length = 9;
    std::vector<model::LinearLayer> layers;
    for (const auto& layer : model::linear_layers(decoder.config()))
        if (layer.block + 2 >= decoder.config().blocks) layers.push_back(layer);
    const embedding::GradientTailSettings settings{decoder.config().hidden,
                                                   length * static_cast<std::int64_t>(layers.size()), 7};
    saved.insert("tail", (*embedding::make_gradient_tail_encoder(decoder, layers, settings))(samples, batch_tokens));
    // The maps of its sketch: the bucket of every input and output, and the sign.
    const auto save_map = [&](const std::string& side, const std::string& name, std::int64_t count) {
        const Philox random(embedding::tail_sketch_seed(7), "tensor " + side, name);
        auto map = at::empty({2, count}, at::TensorOptions().dtype(torch::kInt64));
        for (std::int64_t i = 0; i < count; ++i) {
            const auto column = static_cast<std::uint64_t>(i);
            map[0][i] = static_cast<std::int64_t>(random.below(length, 0, column));
            map[1][i] = (random.words(1, column)[0] & 1U) != 0 ? 1 : -1;
        }
        saved.insert("tail." + side + "." + name, map);
    };
    for (const auto& layer : layers) {
        save_map("input", layer.name, layer.inputs);
        save_map("output", layer.name, layer.outputs);
    }
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 8) return 2;
    at::set_num_threads(1);
    const auto config = model::check_model(argv[1]).config;
    const auto layout = model::weight_layout(config);
    const auto memory = at::empty({static_cast<std::int64_t>(layout.bytes)}, at::TensorOptions().dtype(at::kByte));
    const std::span<std::byte> bytes(static_cast<std::byte*>(memory.mutable_data_ptr()), layout.bytes);
    model::read_weights(argv[1], layout, bytes);
    const model::Decoder decoder(config, layout, bytes);
    const data::TokenFile file(argv[2]);
    const auto samples = file.read({0, file.size()});
    const std::int64_t batch_tokens = std::atoll(argv[4]);
    Saved saved;
    save_logits(decoder, samples, batch_tokens, saved);
    save_gradients(decoder, argv[7], samples, batch_tokens, saved);
    save_hessian_product(decoder, samples, batch_tokens, saved);
    const std::int64_t blocks = std::atoll(argv[5]);
    const embedding::JvpSettings jvp{2, std::atoll(argv[6])};
    saved.insert("tangents", (*embedding::make_jvp_encoder(decoder, blocks, jvp, 7, 1 << 30))(samples, batch_tokens));
    saved.insert("hidden", (*embedding::make_hidden_encoder(decoder, blocks, 7, 1 << 30))(samples, batch_tokens));
    save_tail(decoder, samples, batch_tokens, saved);
    save_directions(decoder, embedding::random_directions(decoder, blocks, jvp, 7), saved);
    const auto data = torch::jit::pickle_save(saved);
    std::ofstream(argv[3], std::ios::binary).write(data.data(), static_cast<std::streamsize>(data.size()));
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
