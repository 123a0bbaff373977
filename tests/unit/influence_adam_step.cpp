// Gradients taken into Adam's moments: a whole step, by its formula and of whole gradients in double precision.

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <utility>

#include "failure_of.hpp"
#include "influence_preconditioner.hpp"

using namespace influence_test;

BOOST_AUTO_TEST_SUITE(influence_adam_step)

// What PyTorch's Adam does with a gradient, minus the learning rate (LESS, section 2.2), and LESS's released code.
BOOST_AUTO_TEST_CASE(a_step_takes_the_gradient_into_its_moments) {
    for (const auto form : {OptimizerFile::Form::step, OptimizerFile::Form::step_without_bias_correction}) {
        State state;
        state.metadata["eps"] = "1e-3";
        state.moments[1][2] = 0.0F;
        for (const auto* moment : {"exp_avg.", "exp_avg_sq."})
            state.tensors.at(moment + two_layers[1].name + ".weight") = stored({4, 3}, state.moments[1]);
        state.save();
        const OptimizerFile file(state.path, two_layers, form);
        std::vector<float> memory(file.bytes() / sizeof(float), -1.0F);
        BOOST_TEST(file.bytes() == 2U * 2U * 64U);  // 15 and 12 numbers, twice
        const auto bytes = std::as_writable_bytes(std::span(memory));
        file.fill(bytes);
        const auto by = file.preconditioner(bytes);
        BOOST_TEST((by.elementwise() && by.scales.empty()));
        const auto moment = at::tensor(state.moments[1], in_double).view({4, 3});  // both are the same
        const auto g = normal({4, 3}, 75).mul_(0.01);
        const auto first = 0.9 * moment + 0.1 * g, squares = 0.98 * moment + 0.02 * g * g;
        const auto expected =
            form == OptimizerFile::Form::step
                ? first / (1.0 - std::pow(0.9, 8)) / ((squares / (1.0 - std::pow(0.98, 8))).sqrt() + 1e-3)
                : first / (squares + 1e-3).sqrt();
        for (const auto type : {torch::kFloat32, torch::kFloat64}) {
            auto found = g.to(type, false, true);
            by.apply(1, found);
            BOOST_TEST(relative_error(found, expected) < 1e-6);
        }
    }
}

BOOST_AUTO_TEST_CASE(what_no_gradient_has_touched_stays_in_a_step_without_epsilon) {
    const auto zeros = at::zeros({1, 3});
    const Preconditioner by{
        .step = influence::AdamStep{{zeros}, {at::tensor({0.0F, 0.0F, 4.0F}).view({1, 3})}, 1.0, 0.25, 0.0}};
    const auto g = at::tensor({0.0F, 3.0F, 0.0F}).view({1, 3});
    by.apply(0, g);
    BOOST_TEST(at::equal(g, at::tensor({0.0F, 2.0F, 0.0F}).view({1, 3})));  // 3 / sqrt(9 / 4)
    const auto together = at::tensor({0.0F, 3.0F, 0.0F, 0.0F, 0.0F, 0.0F}).view({2, 1, 3});
    by.apply(0, together);
    BOOST_TEST(at::equal(together, at::tensor({0.0F, 2.0F, 0.0F, 0.0F, 0.0F, 0.0F}).view({2, 1, 3})));
}

BOOST_AUTO_TEST_CASE(a_step_is_of_adam) {
    State state;
    state.metadata["kind"] = "sgd";
    state.save();
    const auto failure =
        failure_of(ExitCode::bad_input, [&] { OptimizerFile(state.path, two_layers, OptimizerFile::Form::step); });
    BOOST_TEST((failure.field == "metadata kind" && failure.expected == "adamw or adam" && failure.found == "sgd"));
}

struct SteppedGradients : Gradients {
    /// Every sample's gradient of the plain pass after `by`, (n x P).
    [[nodiscard]] Tensor changed(const Preconditioner& by) const {
        auto whole = rows(twice, *sketch(SketchKind::none, in_double), 1).features;
        auto parts = by_layer(whole);
        for (std::size_t l = 0; l < parts.size(); ++l)
            for (std::int64_t i = 0; i < samples.size(); ++i) by.apply(l, parts[l][i]);
        std::vector<Tensor> flat;
        for (const auto& part : parts) flat.push_back(part.flatten(1));
        return at::cat(flat, 1);
    }
    /// A step whose moments are as large as the gradients.
    [[nodiscard]] Preconditioner step() const {
        influence::AdamStep made{{}, {}, 0.3, 0.1, 1e-3};
        const auto typical = rows(twice, *sketch(SketchKind::none, in_double), 1).features.std().item<double>();
        for (const auto& layer : chosen.layers()) {
            const auto values = normal({layer.outputs, layer.inputs}, 950 + made.first.size());
            made.first.push_back(values.mul(typical).to(torch::kFloat32));
            made.second.push_back(values.square().mul(typical * typical).to(torch::kFloat32));
        }
        return {.step = std::move(made)};
    }
};

BOOST_FIXTURE_TEST_CASE(a_gradient_in_a_step_of_adam_is_whole_and_changed, SteppedGradients) {
    const auto by = step();
    const auto whole = changed(by);
    auto directions = by_layer(normal({3, whole.size(1)}, 77));
    for (const std::int64_t batch_tokens : {1, 40, 1'000'000}) {
        const auto exact = rows(twice, *sketch(SketchKind::none, in_double), batch_tokens, by);
        BOOST_TEST(relative_error(exact.features, whole) < 1e-12);
        BOOST_TEST(relative_error(exact.norm, whole.norm(2, {1})) < 1e-12);
        const auto products = influence::gradient_products(twice, chosen, directions, samples, batch_tokens, by);
        BOOST_TEST(relative_error(products.features, at::mm(whole, normal({3, whole.size(1)}, 77).t())) < 1e-12);
        const auto fp32 = rows(tiny.decoder(), *sketch(SketchKind::none, tiny.decoder().options()), batch_tokens, by);
        BOOST_TEST(relative_error(fp32.features, whole) < 1e-4);
    }
}

BOOST_AUTO_TEST_SUITE_END()
