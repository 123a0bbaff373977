// FLOPs and sizes of gradients and their sketches, against counting.

#include <algorithm>
#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "counted_flops.hpp"
#include "failure_of.hpp"
#include "idistill/influence/gradient/cost.hpp"
#include "sketch_kinds.hpp"

using namespace idistill;
using namespace idistill::influence;
using namespace idistill::test;

namespace {

GradientSettings settings_with(const std::string& parameters, SketchKind sketch, std::int64_t sketch_dim) {
    GradientSettings settings;
    settings.parameters = parameters;
    settings.sketch = sketch;
    settings.sketch_dim = sketch_dim;
    return settings;
}

/// With a sketch as these settings ask for.
GradientCost cost_of(const GradientSettings& settings) {
    const auto chosen = model::chosen_layers(small_model(), settings.parameters);
    return {small_model(), chosen, settings.sketch, sketch_shape(settings, chosen)};
}

/// Without a sketch: of products with whole directions.
GradientCost cost_without_sketch(const std::string& parameters) {
    return {small_model(), model::chosen_layers(small_model(), parameters), SketchKind::kronecker, {}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_cost)

BOOST_AUTO_TEST_CASE(gradient_with_tensor_sketch) {
    const auto model = small_model();
    for (const auto& regex : layer_choices) {
        const auto settings = settings_with(regex, SketchKind::tensor, 1000);
        const auto chosen = model::chosen_layers(model, regex);
        const auto length = sketch_shape(settings, chosen).length;
        auto counter = count_passes(model, chosen, 7, 3);
        for (const auto& layer : chosen) {
            const auto rows = rows_of(model, layer, 7, 3);
            counter.product(rows, layer.inputs + layer.outputs, 1);  // into their buckets
            counter.add(static_cast<double>(rows) * (2 * spectrum_flops(length) + 4.0 * static_cast<double>(length)));
            counter.add(norm_flops(rows, layer));
        }
        BOOST_TEST(cost_of(settings).gradient(7, 3) == counter.flops(), boost::test_tools::tolerance(1e-12));
    }
}

BOOST_AUTO_TEST_CASE(lengths_that_are_transformed_fast) {
    const std::vector<std::pair<std::int64_t, std::int64_t>> cases{
        {1, 1}, {2, 2}, {7, 6}, {13, 12}, {63, 60}, {64, 64}, {79, 72}, {156, 144}, {1092, 1080}, {2184, 2160}};
    for (const auto& [most, length] : cases) BOOST_TEST(fft_length(most) == length, most);
    const auto shape = [](std::int64_t sketch_dim) {
        return sketch_shape(settings_with("down_proj", SketchKind::tensor, sketch_dim),
                            model::chosen_layers(small_model(), "down_proj"));
    };
    BOOST_TEST((shape(3 * 17 + 2).length == 16 && shape(3 * 17 + 2).width == 3 * 16 && shape(53).side == 0));
    BOOST_TEST(shape(3 * 1000).length == 24);  // entries of a layer
}

BOOST_AUTO_TEST_CASE(gradient_with_kronecker_sketch) {
    const auto model = small_model();
    for (const auto& regex : layer_choices) {
        for (const auto& [tokens, labels] :
             std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {5, 2}, {7, 7}, {40, 3}}) {
            const auto settings = settings_with(regex, SketchKind::kronecker, 100);
            const auto chosen = model::chosen_layers(model, regex);
            const auto side = sketch_shape(settings, chosen).side;
            auto counter = count_passes(model, chosen, tokens, labels);
            for (const auto& layer : chosen) {
                const auto rows = rows_of(model, layer, tokens, labels);
                counter.product(rows, layer.inputs, side);
                counter.product(rows, layer.outputs, side);
                counter.product(side, rows, side);
                counter.add(norm_flops(rows, layer));
            }
            BOOST_TEST(cost_of(settings).gradient(tokens, labels) == counter.flops(),
                       regex << " " << tokens << " " << labels);
        }
    }
}

BOOST_AUTO_TEST_CASE(gradient_with_the_other_sketches) {
    const auto model = small_model();
    const auto chosen = model::chosen_layers(model, "down_proj");
    for (const auto sketch : {SketchKind::none, SketchKind::rademacher, SketchKind::hadamard}) {
        const auto settings = settings_with("down_proj", sketch, 12);
        auto counter = count_passes(model, chosen, 6, 2);
        for (const auto& layer : chosen) {
            counter.product(layer.outputs, rows_of(model, layer, 6, 2), layer.inputs);  // the gradient
            counter.product(1, layer.inputs * layer.outputs, 1);                        // its norm
            if (sketch == SketchKind::rademacher)
                counter.product(settings.sketch_numbers(), layer.inputs * layer.outputs, 1);
            if (sketch == SketchKind::hadamard) counter.add(32.0 * 5.0);  // 4 x 6 padded to 32: five rounds of 32 sums
        }
        BOOST_TEST(cost_of(settings).gradient(6, 2) == counter.flops(), sketch);
    }
}

BOOST_AUTO_TEST_CASE(contraction_takes_the_cheaper_way) {
    const auto model = small_model();
    const auto chosen = model::chosen_layers(model, "down_proj");
    const auto cost = cost_without_sketch("down_proj");
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
        BOOST_TEST(cost.contraction(tokens, labels, directions) == counter.flops());
    }
}

BOOST_AUTO_TEST_CASE(a_preconditioned_gradient_is_whole_before_it_is_shortened) {
    const auto model = small_model();
    const auto chosen = model::chosen_layers(model, "down_proj|k_proj");
    for (const auto sketch : sketch_kinds) {
        const auto settings = settings_with("down_proj|k_proj", sketch, 24);
        const auto cost = cost_of(settings);
        if (sketch != SketchKind::kronecker && sketch != SketchKind::tensor) {  // these form the gradient anyway
            BOOST_TEST(cost.gradient(6, 2, GradientKind::preconditioned) == cost.gradient(6, 2), sketch);
            continue;
        }
        const auto shape = sketch_shape(settings, chosen);
        auto counter = count_passes(model, chosen, 6, 2);
        for (const auto& layer : chosen) {
            counter.product(layer.outputs, rows_of(model, layer, 6, 2), layer.inputs);  // the gradient
            counter.product(1, layer.inputs * layer.outputs, 1);                        // its norm
            if (sketch == SketchKind::tensor) {
                counter.product(1, layer.inputs * layer.outputs, 1);  // into its buckets
                counter.add(spectrum_flops(shape.length));
                continue;
            }
            counter.product(layer.outputs, layer.inputs, shape.side);
            counter.product(shape.side, layer.outputs, shape.side);
        }
        BOOST_TEST(cost.gradient(6, 2, GradientKind::preconditioned) == counter.flops());
    }
    auto counter = count_passes(model, model::chosen_layers(model, "down_proj"), 2, 1);
    for (const auto& layer : model::chosen_layers(model, "down_proj")) {  // also where few rows would be cheaper
        counter.product(layer.outputs, rows_of(model, layer, 2, 1), layer.inputs);
        counter.product(3 + 1, layer.inputs * layer.outputs, 1);
    }
    BOOST_TEST(cost_without_sketch("down_proj").contraction(2, 1, 3, GradientKind::preconditioned) == counter.flops());
}

BOOST_AUTO_TEST_CASE(a_step_of_adam_takes_eight_operations_an_entry_more) {
    const auto chosen = model::chosen_layers(small_model(), "down_proj|k_proj");
    double more = 0.0;
    for (const auto& layer : chosen) more += 8.0 * static_cast<double>(layer.inputs * layer.outputs);
    for (const auto sketch : sketch_kinds) {
        const auto cost = cost_of(settings_with("down_proj|k_proj", sketch, 24));
        BOOST_TEST(
            cost.gradient(6, 2, GradientKind::adam_step) == cost.gradient(6, 2, GradientKind::preconditioned) + more,
            sketch);
    }
    const auto cost = cost_without_sketch("down_proj|k_proj");
    BOOST_TEST(cost.contraction(2, 1, 3, GradientKind::adam_step) ==
               cost.contraction(2, 1, 3, GradientKind::preconditioned) + more);
}

BOOST_AUTO_TEST_CASE(a_sum_of_gradients_has_no_norms) {
    const auto model = small_model();
    for (const auto& regex : layer_choices) {
        const auto chosen = model::chosen_layers(model, regex);
        auto counter = count_passes(model, chosen, 7, 3);
        for (const auto& layer : chosen) counter.product(layer.outputs, rows_of(model, layer, 7, 3), layer.inputs);
        BOOST_TEST(cost_without_sketch(regex).gradient_sum(7, 3) == counter.flops(), regex);
    }
}

// Every product of the gradient pass on dual numbers: that of the values and two of their tangents, but one for what
// the direction does not change.
BOOST_AUTO_TEST_CASE(a_product_of_the_hessian) {
    const auto model = small_model();
    for (const auto& regex : layer_choices) {
        const auto chosen = model::chosen_layers(model, regex);
        const auto lowest = chosen.front().block;
        Counter below(model, 7), with_direction(model, 7);
        for (const auto& layer : linear_layers(model))
            if (layer.block < lowest) below.product(7, layer.inputs, layer.outputs);
        for (std::int64_t i = 0; i < 2 * lowest; ++i) below.pair_product(last_positions(7, 7));
        for (const auto& layer : chosen)  // V x, V' y, and both parts of the sum
            for (int i = 0; i < 4; ++i)
                with_direction.product(rows_of(model, layer, 7, 3), layer.inputs, layer.outputs);
        BOOST_TEST(cost_without_sketch(regex).hessian_product(7, 3) ==
                       2.0 * count_passes(model, chosen, 7, 3).flops() - below.flops() + with_direction.flops(),
                   regex);
    }
}

BOOST_AUTO_TEST_CASE(a_score_is_a_product_of_two_sketches) {
    Counter counter(small_model(), 1);
    counter.product(1, 12, 7);
    BOOST_TEST(cost_of(settings_with("down_proj", SketchKind::kronecker, 12)).scores(7) == counter.flops());
    BOOST_TEST(counter.flops() == 2.0 * 12.0 * 7.0);
    BOOST_TEST(cost_without_sketch("down_proj").scores(7) == 0.0);
}

BOOST_AUTO_TEST_CASE(widths_of_sketches) {
    const auto model = small_model();
    using enum SketchKind;
    const auto shape = [&](SketchKind sketch, std::int64_t dimension, const std::string& regex) {
        return sketch_shape(settings_with(regex, sketch, dimension), model::chosen_layers(model, regex));
    };
    BOOST_TEST((shape(kronecker, 12, "down_proj").side == 2 && shape(kronecker, 12, "down_proj").width == 12));
    BOOST_TEST((shape(kronecker, 26, "down_proj").side == 2 && shape(kronecker, 27, "down_proj").side == 3));
    BOOST_TEST((shape(kronecker, 3, "down_proj").side == 1 && shape(kronecker, 3, "down_proj").width == 3));
    BOOST_TEST(
        (shape(kronecker, 1000000, "down_proj").side == 4 && shape(kronecker, 1000000, "down_proj").width == 48));
    BOOST_TEST((shape(kronecker, 1000000, "down_proj|k_proj").side == 2));  // k_proj has two outputs
    BOOST_TEST((shape(hadamard, 17, "down_proj").width == 17 && shape(rademacher, 17, "down_proj").width == 17));
    BOOST_TEST((shape(none, 17, "down_proj|k_proj").width == 3 * (4 * 6 + 2 * 4)));
    // exact roots, where a rounded square root could be one short
    for (const std::int64_t root : {2, 3, 31, 1023, 15000}) {
        ModelConfig wide = model;
        wide.hidden = wide.intermediate = 20000;
        const auto layers = model::chosen_layers(wide, "down_proj");
        BOOST_TEST(sketch_shape(settings_with("", kronecker, 3 * root * root), layers).side == root);
        BOOST_TEST(sketch_shape(settings_with("", kronecker, 3 * root * root - 1), layers).side == root - 1);
        BOOST_TEST(sketch_shape(settings_with("", kronecker, 3 * root * root), layers).width == 3 * root * root);
    }
}

BOOST_AUTO_TEST_CASE(a_sketch_that_does_not_fit_the_layers_is_refused) {
    const auto chosen = model::chosen_layers(small_model(), "down_proj");  // three of 4 x 6, padded to 32
    using enum SketchKind;
    BOOST_TEST(padded_entries(chosen[0]) == 32);
    const auto refused_dim = [&chosen](SketchKind sketch, std::int64_t dimension) {
        return failure_of(ExitCode::usage, [&] { sketch_shape(settings_with("", sketch, dimension), chosen); });
    };
    for (const auto sketch : {tensor, kronecker, hadamard}) {
        const auto few = refused_dim(sketch, 2);
        BOOST_TEST((few.where == "--sketch-dim" && contains(few.expected, "at least 3") && few.found == "2"));
        BOOST_TEST(contains(few.remedy, "--parameters"));
    }
    const auto many = refused_dim(hadamard, 97);
    BOOST_TEST((many.where == "--sketch-dim" && many.field == "model.layers.0.mlp.down_proj"));
    BOOST_TEST((contains(many.expected, "at most 32") && contains(many.found, "33") && contains(many.found, "97")));

    const auto width = [&chosen](SketchKind sketch, std::int64_t dimension) {
        return sketch_shape(settings_with("", sketch, dimension), chosen).width;
    };
    BOOST_TEST((width(hadamard, 96) == 96 && width(hadamard, 3) == 3 && width(rademacher, 1) == 1));
}

BOOST_AUTO_TEST_SUITE_END()
