// FLOPs and sizes of gradients and their sketches, against counting.

#include <algorithm>
#include <cmath>

#include "config_cost_support.hpp"

using namespace config_test;

namespace {

const std::vector<std::string> choices{"down_proj",    "1\\.mlp\\.up", "2\\.mlp",      "q_proj",     "1\\..*[kv]_proj",
                                       "2\\..*v_proj", "2\\..*o_proj", "1\\..*k_proj", "0\\..*down", ""};

}  // namespace

BOOST_AUTO_TEST_SUITE(config_cost_model)

BOOST_AUTO_TEST_CASE(gradient_with_kronecker_sketch) {
    const auto model = tiny_model();
    for (const auto& regex : choices) {
        for (const auto& [tokens, labels] :
             std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {5, 2}, {7, 7}, {40, 3}}) {
            auto settings = tiny_settings();
            settings.parameters = regex;
            settings.sketch_dim = 100;
            const auto chosen = chosen_layers(model, regex);
            const auto side = sketch_shape(settings, chosen).side;
            auto counter = count_passes(model, chosen, tokens, labels);
            for (const auto& layer : chosen) {
                const auto rows = rows_of(model, layer, tokens, labels);
                counter.product(rows, layer.inputs, side);
                counter.product(rows, layer.outputs, side);
                counter.product(side, rows, side);
                counter.add(norm_flops(rows, layer));
            }
            BOOST_TEST(CostModel(model, settings).gradient(tokens, labels) == counter.flops(),
                       regex << " " << tokens << " " << labels);
        }
    }
}

BOOST_AUTO_TEST_CASE(gradient_with_the_other_sketches) {
    const auto model = tiny_model();
    const auto chosen = chosen_layers(model, "down_proj");
    for (const std::string sketch : {"none", "rademacher", "hadamard"}) {
        auto settings = tiny_settings();
        settings.sketch = sketch;
        auto counter = count_passes(model, chosen, 6, 2);
        for (const auto& layer : chosen) {
            counter.product(layer.outputs, rows_of(model, layer, 6, 2), layer.inputs);  // the gradient
            counter.product(1, layer.inputs * layer.outputs, 1);                        // its norm
            if (sketch == "rademacher") counter.product(settings.sketch_dim, layer.inputs * layer.outputs, 1);
            if (sketch == "hadamard") counter.add(32.0 * 5.0);  // 4 x 6 padded to 32: five rounds of 32 sums
        }
        BOOST_TEST(CostModel(model, settings).gradient(6, 2) == counter.flops(), sketch);
    }
}

BOOST_AUTO_TEST_CASE(contraction_takes_the_cheaper_way) {
    const auto model = tiny_model();
    auto settings = tiny_settings();
    settings.propagation = "none";
    settings.columns = "tasks";
    const auto chosen = chosen_layers(model, "down_proj");
    for (const auto& [tokens, labels, directions] :
         std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {2, 1, 1}, {9, 4, 1}, {9, 4, 7}, {60, 50, 3}}) {
        auto counter = count_passes(model, chosen, tokens, labels);
        for (const auto& layer : chosen) {
            const auto rows = rows_of(model, layer, tokens, labels);
            Counter without(model, tokens);
            for (std::int64_t c = 0; c < directions; ++c) without.product(rows, layer.inputs, layer.outputs);
            without.add(norm_flops(rows, layer));
            Counter formed(model, tokens);
            formed.product(layer.outputs, rows, layer.inputs);
            formed.product(directions + 1, layer.inputs * layer.outputs, 1);
            counter.add(std::min(without.flops(), formed.flops()));
        }
        BOOST_TEST(CostModel(model, settings).contraction(tokens, labels, directions) == counter.flops());
    }
}

BOOST_AUTO_TEST_CASE(a_preconditioned_gradient_is_whole_before_it_is_shortened) {
    const auto model = tiny_model();
    const auto chosen = chosen_layers(model, "down_proj|k_proj");
    for (const std::string sketch : {"kronecker", "none", "rademacher", "hadamard"}) {
        auto settings = tiny_settings();
        settings.parameters = "down_proj|k_proj";
        settings.sketch = sketch;
        settings.sketch_dim = 24;
        const CostModel cost(model, settings);
        if (sketch != "kronecker") {  // these form the gradient anyway
            BOOST_TEST(cost.gradient(6, 2, GradientKind::preconditioned) == cost.gradient(6, 2), sketch);
            continue;
        }
        const auto side = sketch_shape(settings, chosen).side;
        auto counter = count_passes(model, chosen, 6, 2);
        for (const auto& layer : chosen) {
            counter.product(layer.outputs, rows_of(model, layer, 6, 2), layer.inputs);  // the gradient
            counter.product(1, layer.inputs * layer.outputs, 1);                        // its norm
            counter.product(layer.outputs, layer.inputs, side);
            counter.product(side, layer.outputs, side);
        }
        BOOST_TEST(cost.gradient(6, 2, GradientKind::preconditioned) == counter.flops());
    }
    auto settings = tiny_settings();
    settings.propagation = "none";
    settings.columns = "tasks";
    auto counter = count_passes(model, chosen_layers(model, "down_proj"), 2, 1);
    for (const auto& layer : chosen_layers(model, "down_proj")) {  // also where few rows would be cheaper
        counter.product(layer.outputs, rows_of(model, layer, 2, 1), layer.inputs);
        counter.product(3 + 1, layer.inputs * layer.outputs, 1);
    }
    BOOST_TEST(CostModel(model, settings).contraction(2, 1, 3, GradientKind::preconditioned) == counter.flops());
}

BOOST_AUTO_TEST_CASE(a_sum_of_gradients_has_no_norms) {
    const auto model = tiny_model();
    for (const auto& regex : choices) {
        auto settings = tiny_settings();
        settings.parameters = regex;
        settings.propagation = "none";
        settings.columns = "tasks";
        settings.sketch_dim = 1;  // of no effect
        const auto chosen = chosen_layers(model, regex);
        auto counter = count_passes(model, chosen, 7, 3);
        for (const auto& layer : chosen) counter.product(layer.outputs, rows_of(model, layer, 7, 3), layer.inputs);
        BOOST_TEST(CostModel(model, settings).gradient_sum(7, 3) == counter.flops(), regex);
    }
}

BOOST_AUTO_TEST_CASE(widths_of_sketches) {
    const auto model = tiny_model();
    auto settings = tiny_settings();
    const auto shape = [&](const std::string& sketch, std::int64_t dimension, const std::string& regex) {
        settings.sketch = sketch;
        settings.sketch_dim = dimension;
        return sketch_shape(settings, chosen_layers(model, regex));
    };
    BOOST_TEST((shape("kronecker", 12, "down_proj").side == 2 && shape("kronecker", 12, "down_proj").width == 12));
    BOOST_TEST((shape("kronecker", 26, "down_proj").side == 2 && shape("kronecker", 27, "down_proj").side == 3));
    BOOST_TEST((shape("kronecker", 3, "down_proj").side == 1 && shape("kronecker", 3, "down_proj").width == 3));
    BOOST_TEST(
        (shape("kronecker", 1000000, "down_proj").side == 4 && shape("kronecker", 1000000, "down_proj").width == 48));
    BOOST_TEST((shape("kronecker", 1000000, "down_proj|k_proj").side == 2));  // k_proj has two outputs
    BOOST_TEST((shape("hadamard", 17, "down_proj").width == 17 && shape("rademacher", 17, "down_proj").width == 17));
    BOOST_TEST((shape("none", 17, "down_proj|k_proj").width == 3 * (4 * 6 + 2 * 4)));
    // exact roots, where a rounded square root could be one short
    for (const std::int64_t root : {2, 3, 31, 1023, 15000}) {
        ModelConfig wide = model;
        wide.hidden = wide.intermediate = 20000;
        settings.sketch = "kronecker";
        settings.sketch_dim = 3 * root * root;
        BOOST_TEST(sketch_shape(settings, chosen_layers(wide, "down_proj")).side == root);
        settings.sketch_dim -= 1;
        BOOST_TEST(sketch_shape(settings, chosen_layers(wide, "down_proj")).side == root - 1);
    }
}

BOOST_AUTO_TEST_CASE(a_sketch_that_does_not_fit_the_layers_is_refused) {
    const auto chosen = chosen_layers(tiny_model(), "down_proj");  // three of 4 x 6, padded to 32
    const auto refused_dim = [&chosen](const std::string& sketch, std::int64_t dimension) {
        auto settings = tiny_settings();
        settings.sketch = sketch;
        settings.sketch_dim = dimension;
        return failure_of(ExitCode::usage, [&] { sketch_shape(settings, chosen); });
    };
    for (const std::string sketch : {"kronecker", "hadamard"}) {
        const auto few = refused_dim(sketch, 2);
        BOOST_TEST((few.where == "--sketch-dim" && contains(few.expected, "at least 3") && few.found == "2"));
        BOOST_TEST(contains(few.remedy, "--parameters"));
    }
    const auto many = refused_dim("hadamard", 97);
    BOOST_TEST((many.where == "--sketch-dim" && many.field == "model.layers.0.mlp.down_proj"));
    BOOST_TEST((contains(many.expected, "at most 32") && contains(many.found, "33") && contains(many.found, "97")));

    auto settings = tiny_settings();
    settings.sketch = "hadamard";
    settings.sketch_dim = 96;
    BOOST_TEST(sketch_shape(settings, chosen).width == 96);
    settings.sketch_dim = 3;
    BOOST_TEST(sketch_shape(settings, chosen).width == 3);
    settings.sketch = "rademacher";
    settings.sketch_dim = 1;
    BOOST_TEST(sketch_shape(settings, chosen).width == 1);
}

BOOST_AUTO_TEST_SUITE_END()
