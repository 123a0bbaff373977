// The optimizer's factors from its file, and gradients multiplied by them: sketches, products and norms against
// explicit dense gradients in double precision.

#include "influence_preconditioner.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <limits>

using namespace influence_test;

namespace {

const std::string second = "exp_avg_sq.model.layers.0.mlp.down_proj.weight";

/// Random positive factors over five decades, some zero, a layer each.
std::vector<Tensor> random_scales(const std::vector<LinearLayer>& layers) {
    std::vector<Tensor> scales;
    for (const auto& layer : layers) {
        const auto exponent = normal({layer.outputs, layer.inputs}, 900 + scales.size());
        scales.push_back(at::pow(10.0, exponent).mul_(exponent.gt(-1.5)));
    }
    return scales;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_preconditioner)

BOOST_AUTO_TEST_CASE(factors_are_those_of_the_formula) {
    for (const auto* kind : {"", "adamw", "adam"}) {
        State state;
        if (*kind != '\0') state.metadata["kind"] = kind;
        state.moments[1][2] = 0.0F;
        state.moments[1][11] = 0.0F;
        state.tensors.at(second) = stored({4, 3}, state.moments[1]);
        std::vector<float> memory;
        const auto [preconditioner, untouched] = state.read(memory);
        BOOST_TEST((untouched.zero == 2 && untouched.all == 27));
        BOOST_TEST(preconditioner.uniform == 1.0);
        BOOST_TEST(preconditioner.scales.size() == 2U);
        for (std::size_t l = 0; l < 2; ++l) {
            const auto& scale = preconditioner.scales[l];
            BOOST_TEST((scale.sizes() == at::IntArrayRef{two_layers[l].outputs, two_layers[l].inputs}));
            BOOST_TEST(reinterpret_cast<std::uintptr_t>(scale.const_data_ptr()) % 64 ==
                       reinterpret_cast<std::uintptr_t>(memory.data()) % 64);
            for (std::size_t i = 0; i < state.moments[l].size(); ++i) {
                // eight steps: the product of the betas, one after the other
                double power1 = 1.0, power2 = 1.0;
                for (int step = 0; step < 8; ++step) {
                    power1 *= 0.9;
                    power2 *= 0.98;
                }
                const double v = static_cast<double>(state.moments[l][i]) / (1.0 - power2);
                const double a = v == 0.0 ? 0.0 : 0.1 / (1.0 - power1) / (std::sqrt(v) + 1e-6);
                const auto found = static_cast<double>(scale.view({-1})[static_cast<std::int64_t>(i)].item<float>());
                BOOST_TEST(std::abs(found - a) <= 1e-7 * a);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(sgd_is_one_number) {
    State state;
    state.tensors.clear();
    state.metadata = {{"kind", "sgd"},       {"step", "0"},         {"momentum", "0.9"},
                      {"dampening", "0.25"}, {"weight_decay", "0"}, {"learning_rate", "0.1"}};
    std::vector<float> memory;
    const auto without = state.read(memory).preconditioner;
    BOOST_TEST((memory.empty() && without.scales.empty() && without.uniform == 1.0));
    state.tensors["momentum_buffer.model.layers.0.mlp.up_proj.weight"] = stored({3, 5}, std::vector<float>(15));
    BOOST_TEST(state.failure().field == "momentum_buffer.model.layers.0.mlp.down_proj.weight");
    state.tensors["momentum_buffer.model.layers.0.mlp.down_proj.weight"] = stored({4, 3}, std::vector<float>(12));
    const auto with = state.read(memory).preconditioner;
    BOOST_TEST((memory.empty() && with.scales.empty() && with.uniform == 0.75));
    state.metadata["momentum"] = "0.0";
    BOOST_TEST(state.read(memory).preconditioner.uniform == 1.0);
    state.metadata["dampening"] = "1.0";
    BOOST_TEST(state.failure().field == "metadata dampening");
}

// theta' = theta - eta (a g + b): what is left for g = 0.
BOOST_AUTO_TEST_CASE(the_constant_step_is_that_of_the_formula) {
    const auto weight = normal({4, 3}, 70);
    const auto constant = [&weight](const State& state) {
        state.save();
        return OptimizerFile(state.path, two_layers).constant(1, weight.to(torch::kFloat32));
    };
    for (const std::string kind : {"adamw", "adam"}) {
        State state;
        state.metadata["kind"] = kind;
        state.moments[1][2] = 0.0F;
        state.tensors.at(second) = stored({4, 3}, state.moments[1]);
        const auto first = normal({4, 3}, 71).to(torch::kFloat32);
        state.tensors.at("exp_avg.model.layers.0.mlp.down_proj.weight") =
            stored({4, 3}, {first.const_data_ptr<float>(), first.const_data_ptr<float>() + 12});
        std::vector<float> memory;
        const auto a = state.read(memory).preconditioner.scales[1].to(torch::kFloat64);
        const auto root = (at::tensor(state.moments[1], in_double).view({4, 3}) / (1.0 - std::pow(0.98, 8))).sqrt();
        const auto along = 0.9 / (1.0 - std::pow(0.9, 8)) * first.to(torch::kFloat64) / (root + 1e-6);
        const auto decay = 0.01 * weight * (kind == "adam" ? a : at::ones_like(a));
        BOOST_TEST(relative_error(constant(state), along + decay) < 1e-6);
        state.tensors.erase("exp_avg.model.layers.0.mlp.down_proj.weight");
        BOOST_TEST(error_of([&] { constant(state); })->failure().field ==
                   "exp_avg.model.layers.0.mlp.down_proj.weight");
    }
    State state;
    state.tensors.clear();
    state.metadata = {{"kind", "sgd"},       {"step", "1"},           {"momentum", "0.9"},
                      {"dampening", "0.25"}, {"weight_decay", "0.1"}, {"learning_rate", "0.1"}};
    BOOST_TEST(relative_error(constant(state), 0.1 * weight) < 1e-6);
    state.tensors["momentum_buffer.model.layers.0.mlp.up_proj.weight"] = stored({3, 5}, std::vector<float>(15));
    state.tensors["momentum_buffer.model.layers.0.mlp.down_proj.weight"] = stored({4, 3}, std::vector<float>(12, 2.0F));
    BOOST_TEST(relative_error(constant(state), 1.8 + 0.075 * weight) < 1e-6);
}

BOOST_AUTO_TEST_CASE(metadata_that_is_not_what_it_should_be_is_named) {
    for (const auto* key : {"step", "beta1", "beta2", "eps", "weight_decay", "learning_rate"}) {
        for (const auto* text : {"(missing)", "", "many", "-1", "inf", "nan", "0.5 "}) {
            State state;
            state.metadata[key] = text;
            if (text == std::string("(missing)")) state.metadata.erase(key);
            const auto failure = state.failure();
            BOOST_TEST(failure.field == std::string("metadata ") + key);
            BOOST_TEST(failure.found.find(text == std::string("(missing)") ? "nothing" : text) != std::string::npos);
        }
    }
    const auto refused = [](const std::string& key, const std::string& text) {
        State state;
        state.metadata[key] = text;
        BOOST_TEST(state.failure().field == "metadata " + key);
    };
    refused("step", "0");
    refused("beta1", "1.0");
    refused("beta2", "1");
    refused("kind", "adafactor");
    State typed;  // no text
    auto header = header_of(typed.tensors, typed.metadata);
    header["__metadata__"]["step"] = 7;
    write(typed.path, file_of(header.dump(), data_of(typed.tensors)));
    BOOST_TEST(error_of([&] { OptimizerFile(typed.path, two_layers); })->failure().field == "metadata step");
}

BOOST_AUTO_TEST_CASE(a_tensor_that_is_not_what_it_should_be_is_named) {
    const auto refused = [](const std::function<void(State&)>& damage, const std::string& expected,
                            const std::string& found) {
        State state;
        damage(state);
        const auto failure = state.failure();
        BOOST_TEST(failure.field == second);
        BOOST_TEST(failure.expected.find(expected) != std::string::npos, failure.expected);
        BOOST_TEST(failure.found.find(found) != std::string::npos, failure.found);
    };
    const auto with_value = [&](float value) {
        return [value](State& state) {
            state.moments[1][4] = value;
            state.tensors.at(second) = stored({4, 3}, state.moments[1]);
        };
    };
    refused([](State& s) { s.tensors.erase(second); }, "this tensor", "none");
    refused([](State& s) { s.tensors.at(second).shape = {3, 4}; }, "[4, 3]", "[3, 4]");
    refused([](State& s) { s.tensors.at(second).shape = {12}; }, "[4, 3]", "[12]");
    refused([](State& s) { s.tensors.at(second).dtype = "BF16"; }, "F32", "BF16");
    refused([](State& s) { s.tensors.at(second).bytes.resize(40); }, "48 bytes", "40");
    refused(with_value(-1e-9F), "not negative", "row 1, column 1");
    refused(with_value(std::numeric_limits<float>::quiet_NaN()), "finite", "nan at row 1, column 1");
    refused(with_value(std::numeric_limits<float>::infinity()), "finite", "inf at row 1, column 1");

    State zeros;
    for (auto& [name, tensor] : zeros.tensors) std::fill(tensor.bytes.begin(), tensor.bytes.end(), '\0');
    BOOST_TEST(zeros.failure().found == "zeros alone");
}

BOOST_AUTO_TEST_CASE(a_damaged_file_is_named) {
    const State state;
    const auto whole = file_of(state.tensors, state.metadata);
    const auto refused = [&](const std::string& bytes, const std::string& field) {
        write(state.path, bytes);
        const auto error = error_of([&] { OptimizerFile(state.path, two_layers); });
        BOOST_REQUIRE(error.has_value());
        BOOST_TEST(error->failure().where == state.path);
        BOOST_TEST(error->failure().field == field);
        BOOST_TEST(error->failure().remedy.find("jobs/optimizer_state.py") != std::string::npos);
    };
    refused(whole.substr(0, whole.size() - 1), std::prev(state.tensors.end())->first);
    refused(whole.substr(0, 60), "header");
    refused("", "");
    const auto none = error_of([&] { OptimizerFile(state.folder / "none.safetensors", two_layers); });
    BOOST_TEST(none->failure().expected == "a readable safetensors file");
}

BOOST_AUTO_TEST_CASE(a_fingerprint_is_that_of_the_file) {
    State state;
    state.save();
    const auto first = OptimizerFile(state.path, two_layers).sha256();
    BOOST_TEST(first.size() == 64U);
    BOOST_TEST(OptimizerFile(state.path, two_layers).sha256() == first);
    state.metadata["step"] = "8";
    state.save();
    BOOST_TEST(OptimizerFile(state.path, two_layers).sha256() != first);
}

// Every route against whole gradients, multiplied and sketched or contracted one by one.
struct ScaledGradients : Gradients {
    Preconditioner preconditioner{random_scales(chosen.layers()), 1.0};

    /// a*g of every sample, (n x P), from the gradients of the plain pass.
    [[nodiscard]] Tensor scaled() const {
        std::vector<Tensor> flat;
        for (const auto& scale : preconditioner.scales) flat.push_back(scale.view({-1}));
        return rows(twice, *sketch(SketchKind::none, in_double), 1).features * at::cat(flat);
    }
};

BOOST_FIXTURE_TEST_CASE(sketches_and_norms_are_those_of_the_multiplied_gradient, ScaledGradients) {
    const auto whole = scaled();
    const auto parts = by_layer(whole);
    for (const auto kind : sketch_kinds) {
        const auto exact = sketch(kind, in_double);
        // The sketch of a matrix G: that of a tap whose rows are the unit vectors and the rows of G.
        auto expected = at::zeros({samples.size(), exact->width()}, in_double);
        for (std::size_t l = 0; l < parts.size(); ++l) {
            const auto outputs = parts[l].size(1);
            std::vector<std::int64_t> offsets;
            for (std::int64_t i = 0; i <= samples.size(); ++i) offsets.push_back(i * outputs);
            exact->accumulate(
                {l, parts[l].flatten(0, 1), at::eye(outputs, in_double).repeat({samples.size(), 1}), offsets},
                expected);
        }
        const auto single = sketch(kind, tiny.decoder().options());
        for (const std::int64_t batch_tokens : {1, 40, 1'000'000}) {
            const auto found = rows(twice, *exact, batch_tokens, preconditioner);
            BOOST_TEST(relative_error(found.features, expected) < 1e-12, kind);
            BOOST_TEST(relative_error(found.norm, whole.norm(2, {1})) < 1e-12, kind);
            const auto fp32 = rows(tiny.decoder(), *single, batch_tokens, preconditioner);
            for (std::int64_t i = 0; i < samples.size(); ++i)
                BOOST_TEST(relative_error(fp32.features[i], expected[i]) < 2e-5, kind << " sample " << i);
            BOOST_TEST(relative_error(fp32.norm, whole.norm(2, {1})) < 1e-5, kind);
        }
    }
}

BOOST_FIXTURE_TEST_CASE(products_and_norms_are_those_of_the_multiplied_gradient, ScaledGradients) {
    const auto whole = scaled();
    for (const std::int64_t count : {0, 1, 3}) {
        std::vector<Tensor> directions, flat;
        for (const auto& layer : chosen.layers()) {
            directions.push_back(normal({count, layer.outputs, layer.inputs}, 50 + directions.size()));
            flat.push_back(directions.back().view({count, layer.outputs * layer.inputs}));
        }
        for (const std::int64_t batch_tokens : {1, 1'000'000}) {
            const auto found =
                influence::gradient_products(twice, chosen, directions, samples, batch_tokens, preconditioner);
            BOOST_TEST((found.features.sizes() == at::IntArrayRef{samples.size(), count}));
            BOOST_TEST(relative_error(found.features, at::mm(whole, at::cat(flat, 1).t())) < 1e-12);
            BOOST_TEST(relative_error(found.norm, whole.norm(2, {1})) < 1e-12);
        }
    }
}

BOOST_FIXTURE_TEST_CASE(one_number_multiplies_the_rows, ScaledGradients) {
    const auto exact = sketch(SketchKind::kronecker, in_double);
    const auto plain = rows(twice, *exact, 40), halved = rows(twice, *exact, 40, {{}, 0.5});
    BOOST_TEST(same_bits(halved.features, plain.features * 0.5));
    BOOST_TEST(same_bits(halved.norm, plain.norm * 0.5));
    BOOST_TEST(same_bits(halved.loss, plain.loss));
    std::vector<Tensor> ones;
    for (const auto& layer : chosen.layers()) ones.push_back(at::ones({layer.outputs, layer.inputs}, in_double));
    BOOST_TEST(relative_error(rows(twice, *exact, 40, {ones, 1.0}).features, plain.features) < 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
