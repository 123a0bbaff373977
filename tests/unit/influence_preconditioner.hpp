#pragma once
// An optimizer's file of two layers, and the gradients of a small model that it is to change.

#include <boost/test/unit_test.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error_of.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/influence/gradient/preconditioner.hpp"
#include "safetensors_files.hpp"
#include "sketch_kinds.hpp"
#include "tiny_decoder.hpp"
#include "token_files.hpp"

namespace influence_test {

using namespace idistill;
using namespace idistill::test;
using influence::GradientRows;
using influence::OptimizerFile;
using influence::Preconditioner;
using model::LinearLayer;

inline const at::TensorOptions in_double = at::TensorOptions().dtype(torch::kFloat64);
inline const std::vector<LinearLayer> two_layers{{"model.layers.0.mlp.up_proj", 0, 3, 5},
                                                 {"model.layers.0.mlp.down_proj", 0, 4, 3}};

inline Stored stored(const std::vector<std::int64_t>& shape, const std::vector<float>& values) {
    return {"F32", shape, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}};
}

/// An AdamW state of the two layers, and its file.
struct State {
    TemporaryFolder folder;
    std::string path = folder / "optimizer.safetensors";
    std::vector<std::vector<float>> moments;
    Tensors tensors;
    Metadata metadata{{"step", "7"},    {"beta1", "0.9"},         {"beta2", "0.98"},
                      {"eps", "1e-06"}, {"weight_decay", "0.01"}, {"learning_rate", "2e-05"}};

    State() {
        for (const auto& layer : two_layers) {
            auto values = normal({layer.outputs, layer.inputs}, 5 + moments.size()).square_().mul_(1e-4);
            std::vector<float> own;
            for (std::int64_t i = 0; i < values.numel(); ++i) own.push_back(values.view({-1})[i].item<float>());
            moments.push_back(own);
            for (const auto* moment : {"exp_avg.", "exp_avg_sq."})
                tensors[moment + layer.name + ".weight"] = stored({layer.outputs, layer.inputs}, own);
        }
    }
    void save() const { write(path, file_of(tensors, metadata)); }

    /// The factors of the saved file, concatenated, in memory like a node's.
    struct Factors {
        Preconditioner preconditioner;
        OptimizerFile::Untouched untouched;
    };
    [[nodiscard]] Factors read(std::vector<float>& memory) const {
        save();
        const OptimizerFile file(path, two_layers);
        memory.assign(file.bytes() / sizeof(float), -1.0F);
        const auto bytes = std::as_writable_bytes(std::span(memory));
        const auto untouched = file.fill(bytes);
        return {file.preconditioner(bytes), untouched};
    }
    [[nodiscard]] Failure failure() const {
        std::vector<float> memory;
        const auto error = error_of([&] { static_cast<void>(read(memory)); });
        BOOST_REQUIRE(error.has_value());
        BOOST_TEST((error->code() == ExitCode::bad_input));
        BOOST_TEST(error->failure().where == path);
        BOOST_TEST(!error->failure().remedy.empty());
        return error->failure();
    }
};

/// Samples, layers, and the passes that a preconditioner changes.
struct Gradients {
    TinyModel tiny{tiny_llama()};
    model::Decoder twice = tiny.in_double();
    model::ChosenLayers chosen{tiny.config(), model::chosen_layers(tiny.config(), "down_proj|k_proj|layers.2.*q_proj")};
    data::Samples samples = random_samples(tiny.config().vocabulary, {9, 2, 70, 5, 5, 33, 14}, 31);

    [[nodiscard]] GradientRows rows(const model::Decoder& decoder, const influence::GradientSketch& sketch,
                                    std::int64_t batch_tokens, const Preconditioner& by = {}) const {
        return influence::gradient_sketches(decoder, chosen, sketch, samples, batch_tokens, by);
    }
    [[nodiscard]] std::unique_ptr<influence::GradientSketch> sketch(SketchKind kind,
                                                                    const at::TensorOptions& options) const {
        return influence::make_sketch(kind, chosen.layers(), 7 * 16, 43, options);
    }
    /// `flat` (n x P) as one tensor (n x outputs x inputs) a layer.
    [[nodiscard]] std::vector<Tensor> by_layer(const Tensor& flat) const {
        std::vector<Tensor> parts;
        std::int64_t offset = 0;
        for (const auto& layer : chosen.layers()) {
            const auto size = layer.outputs * layer.inputs;
            parts.push_back(flat.narrow(1, offset, size).reshape({-1, layer.outputs, layer.inputs}));
            offset += size;
        }
        return parts;
    }
};

}  // namespace influence_test
