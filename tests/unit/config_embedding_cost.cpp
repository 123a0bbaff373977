// FLOPs and sizes of embeddings and of what they are combined to, against counting.

#include <algorithm>
#include <cmath>

#include "config_cost_support.hpp"

using namespace config_test;

BOOST_AUTO_TEST_SUITE(config_embedding_cost)

BOOST_AUTO_TEST_CASE(jvp_embedding) {
    const auto model = tiny_model();
    for (const std::int64_t blocks : {1, 2, 3}) {
        for (const std::int64_t rank : {0, 3}) {
            for (const std::int64_t tokens : {1, 6}) {
                auto settings = tiny_settings();
                settings.jvp_blocks = blocks;
                settings.jvp_rank = rank;
                settings.jvp_tangents = 2;
                settings.embedding_dim = blocks == 1 ? 5 : 4096;  // 2 * 4 numbers, projected or not
                Counter counter(model, tokens);
                for (const auto& layer : linear_layers(model)) {
                    if (layer.block >= blocks) continue;
                    const bool everywhere =
                        layer.block + 1 < blocks || kind(layer) == "k_proj" || kind(layer) == "v_proj";
                    const std::int64_t rows = everywhere ? tokens : 1;
                    counter.product(rows, layer.inputs, layer.outputs);  // primal
                    for (int k = 0; k < 2; ++k) {
                        counter.product(rows, layer.inputs, layer.outputs);                 // W dx
                        if (rank == 0) counter.product(rows, layer.inputs, layer.outputs);  // dW x
                        if (rank > 0) counter.product(rows, layer.inputs, rank);
                        if (rank > 0) counter.product(rows, rank, layer.outputs);
                    }
                }
                for (std::int64_t block = 0; block < blocks; ++block) {
                    const auto queries = last_positions(tokens, block + 1 < blocks ? tokens : 1);
                    // q k', p v; a tangent has dq k', q dk', dp v, p dv
                    for (int i = 0; i < 2 + 2 * 4; ++i) counter.pair_product(queries);
                }
                for (int k = 0; k < 2 && rank > 0; ++k)
                    counter.product(tokens, rank, model.hidden);  // of the token embedding
                if (blocks == 1) counter.product(1, 8, 5);
                BOOST_TEST(CostModel(model, settings).embedding(tokens, 1) == counter.flops(),
                           blocks << " " << rank << " " << tokens);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(hidden_embedding_and_propagation) {
    const auto model = tiny_model();
    auto settings = tiny_settings();
    settings.embedding = "hidden";
    settings.embedding_dim = 3;
    Counter counter(model, 6);
    for (const auto& layer : linear_layers(model)) {
        if (layer.block < settings.jvp_blocks) counter.product(6, layer.inputs, layer.outputs);
    }
    for (int i = 0; i < 2 * settings.jvp_blocks; ++i) counter.pair_product(last_positions(6, 6));
    counter.product(1, 2 * 4, 3);
    BOOST_TEST(CostModel(model, settings).embedding(6, 1) == counter.flops());

    Counter row(model, 1);
    row.product(1, 3, 50);      // distances to 50 landmarks
    row.product(1, 50, 7 + 1);  // seven columns and the norm
    BOOST_TEST(CostModel(model, settings).propagation(50, 7) == row.flops());
    BOOST_TEST(CostModel(model, settings).scores(7) == 2.0 * 12.0 * 7.0);
}

BOOST_AUTO_TEST_CASE(gradient_tail_embedding) {
    const auto model = tiny_model();
    for (const std::int64_t blocks : {1, 2, 3}) {
        for (const std::string parameters : {"down_proj", "q_proj|up_proj", ""}) {
            auto settings = tiny_settings();
            settings.sketch_dim = 100;
            settings.parameters = parameters;
            settings.embedding = "gradient-tail:" + std::to_string(blocks);
            settings.embedding_dim = blocks == 1 ? 4 + 4 * 7 : 500;  // half of it for 4 states
            std::vector<LinearLayer> tail;
            for (const auto& layer : chosen_layers(model, parameters))
                if (layer.block >= 3 - blocks) tail.push_back(layer);
            const auto shape = embedding_shapes(settings, model).at(0);
            BOOST_TEST((shape.layers.size() == tail.size() && shape.states == 4 && shape.whole == 4));
            const auto side = shape.sketch.side;
            BOOST_TEST(shape.width() == 4 + side * side * static_cast<std::int64_t>(tail.size()));
            BOOST_TEST(shape.width() <= settings.embedding_dim);
            // as a gradient pass over all 7 tokens whose last block is computed at one row more than the 2 predictors
            auto counter = count_passes(model, tail, 7, 3);
            counter.add(-2.0 * 2.0 * 4.0 * 10.0);  // logits and back of that row
            for (const auto& layer : tail) {
                const auto rows = rows_of(model, layer, 7, 3);
                counter.product(rows, layer.inputs, side);
                counter.product(rows, layer.outputs, side);
                counter.product(side, rows, side);
            }
            BOOST_TEST(CostModel(model, settings).embedding(7, 2) == counter.flops(), blocks << " " << parameters);
        }
    }
    auto settings = tiny_settings();
    settings.embedding = "gradient-tail:1";
    settings.embedding_dim = 5;  // 2 of the 4 states, and 3 numbers for a square
    const auto shape = embedding_shapes(settings, model).at(0);
    BOOST_TEST((shape.states == 2 && shape.sketch.width == 1));
}

BOOST_AUTO_TEST_CASE(several_embeddings_cost_their_sum) {
    const auto model = tiny_model();
    const auto cost = [&](const std::string& embedding) {
        auto settings = tiny_settings();
        settings.embedding = embedding;
        return CostModel(model, settings);
    };
    const auto both = cost("jvp+gradient-tail:2");
    BOOST_TEST(both.embedding(9, 4) == cost("jvp").embedding(9, 4) + cost("gradient-tail:2").embedding(9, 4));
    BOOST_TEST((both.embeddings().size() == 2U && both.embeddings()[1].part.tail_blocks == 2));
    const auto width = total_width(both.embeddings());
    BOOST_TEST(both.propagation(10, 3) == 2.0 * 10.0 * static_cast<double>(width + 4));
}

BOOST_AUTO_TEST_CASE(auto_compares_every_combination) {
    const auto names = [](const std::string& embedding) {
        auto settings = tiny_settings();
        settings.embedding = embedding;
        Words all;
        for (const auto& candidate : embedding_candidates(settings))
            all.push_back(joined_name(embedding_parts(settings), candidate));
        return all;
    };
    BOOST_TEST((names("auto") == Words{"jvp", "hidden", "jvp+hidden"}));
    BOOST_TEST((names("hidden+jvp") == Words{"hidden+jvp"}));
    const auto three = names("auto+gradient-tail:1");
    BOOST_TEST((three.size() == 7U && three[2] == "gradient-tail:1" && three[6] == "jvp+hidden+gradient-tail:1"));
}

BOOST_AUTO_TEST_CASE(an_embedding_that_does_not_fit_the_model_is_refused) {
    const auto failure = [](const std::string& embedding, std::int64_t dimension, const std::string& parameters) {
        auto settings = tiny_settings();
        settings.embedding = embedding;
        settings.embedding_dim = dimension;
        settings.parameters = parameters;
        return failure_of(ExitCode::usage, [&] { embedding_shapes(settings, tiny_model()); });
    };
    const auto blocks = failure("jvp+gradient-tail:4", 100, "down_proj");
    BOOST_TEST((blocks.where == "--embedding" && contains(blocks.expected, "at most 3")));
    const auto none = failure("gradient-tail:2", 100, "layers.0");
    BOOST_TEST((none.where == "--embedding" && contains(none.expected, "--parameters")));
    const auto narrow = failure("gradient-tail:3", 5, "down_proj|up_proj");
    BOOST_TEST((narrow.where == "--embedding-dim" && contains(narrow.expected, "at least 10") && narrow.found == "5"));
}

BOOST_AUTO_TEST_CASE(widths_of_embeddings) {
    const auto model = tiny_model();
    auto settings = tiny_settings();
    settings.jvp_tangents = 3;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 12);
    settings.embedding_dim = 7;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 7);
    settings.embedding = "hidden";
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 7);
    settings.embedding_dim = 100;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 8);
}

BOOST_AUTO_TEST_SUITE_END()
