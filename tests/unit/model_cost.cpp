// FLOPs of passes against counting, and bytes of weights and activations.

#include <boost/test/unit_test.hpp>
#include <utility>

#include "counted_flops.hpp"
#include "idistill/model/cost.hpp"

using namespace idistill;
using namespace idistill::model;
using namespace idistill::test;

BOOST_AUTO_TEST_SUITE(model_cost)

BOOST_AUTO_TEST_CASE(forward_and_backward_down_to_the_chosen_layers) {
    const auto model = small_model();
    const PassCost cost(model);
    for (const auto& regex : layer_choices) {
        const auto chosen = chosen_layers(model, regex);
        for (const auto& [tokens, labels] :
             std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {5, 2}, {7, 7}, {40, 3}}) {
            const auto counted = count_passes(model, chosen, tokens, labels).flops();
            const auto t = static_cast<double>(tokens), n = static_cast<double>(labels);
            BOOST_TEST(cost.passes(chosen, t, n, n) == counted, regex << " " << tokens << " " << labels);
            // One row more in the last block, that predicts nothing: without its logits and back.
            auto wider = count_passes(model, chosen, tokens + 1, labels + 1);
            wider.add(-2.0 * 2.0 * 4.0 * 10.0);
            BOOST_TEST(cost.passes(chosen, t + 1, n + 1, n) == wider.flops(), regex << " " << tokens);
        }
    }
}

BOOST_AUTO_TEST_CASE(forward_below_the_chosen_layers) {
    const auto model = small_model();
    for (const auto& regex : layer_choices) {
        const auto chosen = chosen_layers(model, regex);
        const auto lowest = chosen.front().block;
        Counter counter(model, 7);
        for (const auto& layer : linear_layers(model))
            if (layer.block < lowest) counter.product(7, layer.inputs, layer.outputs);
        for (std::int64_t i = 0; i < 2 * lowest; ++i) counter.pair_product(last_positions(7, 7));
        BOOST_TEST(PassCost(model).forward_below(chosen, 7) == counter.flops(), regex);
    }
}

BOOST_AUTO_TEST_CASE(rows_that_are_computed) {
    const auto model = small_model();
    const PassCost cost(model);
    for (const auto& layer : linear_layers(model))
        BOOST_TEST(cost.rows_of(layer, 9, 4) == static_cast<double>(rows_of(model, layer, 9, 4)), layer.name);
}

BOOST_AUTO_TEST_CASE(hidden_states) {
    const auto model = small_model();
    for (const std::int64_t blocks : {1, 2, 3}) {
        Counter counter(model, 6);
        for (const auto& layer : linear_layers(model))
            if (layer.block < blocks) counter.product(6, layer.inputs, layer.outputs);
        for (std::int64_t i = 0; i < 2 * blocks; ++i) counter.pair_product(last_positions(6, 6));
        BOOST_TEST(PassCost(model).states(6, blocks, 0, 0) == counter.flops());
        BOOST_TEST(PassCost(model).states(6, blocks, 0, 8) == counter.flops());  // a rank of nothing
    }
}

BOOST_AUTO_TEST_CASE(tangents_of_the_last_token) {
    const auto model = small_model();
    for (const std::int64_t blocks : {1, 2, 3}) {
        for (const std::int64_t rank : {0, 3}) {
            for (const std::int64_t tokens : {1, 6})
                BOOST_TEST(PassCost(model).states(static_cast<double>(tokens), blocks, 2, rank) ==
                               count_tangents(model, tokens, blocks, 2, rank).flops(),
                           blocks << " " << rank << " " << tokens);
        }
    }
}

BOOST_AUTO_TEST_CASE(entries_of_layers) {
    const auto layers = chosen_layers(small_model(), "1\\..*(down|k)_proj");
    BOOST_REQUIRE(layers.size() == 2U);
    BOOST_TEST((entries(layers[0]) == 8.0 && entries(layers[1]) == 24.0));
    BOOST_TEST((entries(layers) == 32.0 && largest_entries(layers) == 24.0));
}

BOOST_AUTO_TEST_CASE(bytes_of_the_weights) {
    // by hand: embedding and head 2 * 40, 3 blocks of q 16, k 8, v 8, o 16, gate 24, up 24, down 24 and two norms of 4,
    // final norm 4
    auto model = small_model();
    BOOST_TEST(weight_bytes(model) == 4.0 * (80 + 3 * (120 + 8) + 4));
    model.tied_embedding = true;
    BOOST_TEST(weight_bytes(model) == 4.0 * (40 + 3 * (120 + 8) + 4));
    model.query_key_norm = true;
    model.attention_bias = true;
    BOOST_TEST(weight_bytes(model) == 4.0 * (40 + 3 * (120 + 8 + 2 * 2 + 8) + 4));
    model.attention_output_bias = true;
    model.mlp_bias = true;
    BOOST_TEST(weight_bytes(model) == 4.0 * (40 + 3 * (120 + 8 + 2 * 2 + 8 + 4 + 16) + 4));
}

BOOST_AUTO_TEST_CASE(bytes_of_states) {
    const auto model = small_model();
    // of one block, a token: residuals and norms 4 x 4, q, k, v and attention 4 + 2 + 2 + 4, gate, up and product 3 x
    // 6; what goes in and out
    const double states = 16 + 12 + 18 + 2 * 4;
    BOOST_TEST(state_activation_bytes(model, 0, 100) == 4.0 * 100 * states);
    BOOST_TEST(state_activation_bytes(model, 2, 100) == 4.0 * 3 * 100 * states);
}

BOOST_AUTO_TEST_CASE(bytes_of_a_gradient_pass) {
    const auto model = small_model();
    const plan::Batch batch{.rows = 9, .tokens = 100, .samples = 7, .labels = 30, .longest = 20};
    // a block keeps two residuals, q, k, v, attention, gate and up, of every token; the last one its input, k and v of
    // every token, and of the rows that are wanted q, attention, a residual, gate and up
    const double states = 16 + 12 + 18, kept = 8 + 4 + 4 + 4 + 12;
    const auto last = [](double rows) { return 100 * (4 + 4) + rows * (4 + 4 + 4 + 12); };
    // logits of at least 64 rows, V = 10; the head's input and its gradient
    const double head = 4.0 * (64 * 10 + 30 * 2 * 4);
    const auto bytes = [&](std::int64_t lowest, std::int64_t outputs) {
        return gradient_activation_bytes(model, lowest, batch, outputs);
    };
    BOOST_TEST(bytes(0, 30) == 4.0 * (2 * 100 * kept + last(30) + 100 * states) + head);
    BOOST_TEST(bytes(1, 30) == 4.0 * (100 * kept + last(30) + 100 * states) + head);
    BOOST_TEST(bytes(2, 30) == 4.0 * (last(30) + 100 * states) + head);
    BOOST_TEST(bytes(2, 37) == 4.0 * (last(37) + 100 * states) + head);  // with the samples' last tokens
    auto normed = model;
    normed.query_key_norm = true;  // q, k, v before and behind the norm
    BOOST_TEST(gradient_activation_bytes(normed, 0, batch, 30) - bytes(0, 30) == 4.0 * 2 * 100 * 8);
}

BOOST_AUTO_TEST_CASE(logits_are_held_by_the_chunk) {
    auto model = small_model();
    const auto head = [&model](std::int64_t labels) {
        const plan::Batch batch{.rows = 1, .tokens = 100, .samples = 1, .labels = labels, .longest = 100};
        const double blocks = 4.0 * (100 * (4 + 4) + 100 * (16 + 12 + 18));
        return gradient_activation_bytes(model, 2, batch, 0) - blocks - 4.0 * 2 * 4 * static_cast<double>(labels);
    };
    BOOST_TEST((head(1) == 4.0 * 64 * 10 && head(64) == 4.0 * 64 * 10 && head(100) == 4.0 * 100 * 10));
    model.vocabulary = 1 << 18;  // 64 rows take 64 MiB
    BOOST_TEST((head(1) == 64 << 20 && head(100) == 64 << 20));
    model.vocabulary = 1 << 17;
    BOOST_TEST((head(1) == 32 << 20 && head(96) == 48 << 20 && head(100000) == 64 << 20));
}

BOOST_AUTO_TEST_SUITE_END()
