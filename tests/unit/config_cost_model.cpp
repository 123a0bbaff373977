// FLOP formulas against counting one multiply-add after the other on a model small enough for it.

#include <algorithm>
#include <cmath>
#include <set>

#include "config_support.hpp"
#include "idistill/config/cost_model.hpp"

using namespace config_test;

namespace {

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

std::string kind(const LinearLayer& layer) { return layer.name.substr(layer.name.rfind('.') + 1); }

std::vector<std::int64_t> last_positions(std::int64_t tokens, std::int64_t count) {
    std::vector<std::int64_t> positions;
    for (std::int64_t p = tokens - count; p < tokens; ++p) positions.push_back(p);
    return positions;
}

/// Whether a chosen layer lies before `layer` in the flow of its block or in a lower block: then the gradient of the
/// layer's input is needed.
bool something_before(const std::vector<LinearLayer>& chosen, std::int64_t block, const std::set<std::string>& before) {
    return std::any_of(chosen.begin(), chosen.end(), [&](const LinearLayer& layer) {
        return layer.block < block || (layer.block == block && before.contains(kind(layer)));
    });
}

const std::set<std::string> attention_inputs{"q_proj", "k_proj", "v_proj"};
const std::set<std::string> mlp_inputs{"q_proj", "k_proj", "v_proj", "o_proj"};
const std::set<std::string> down_inputs{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"};

std::set<std::string> layers_before(const std::string& layer) {
    if (layer == "down_proj") return down_inputs;
    if (layer == "gate_proj" || layer == "up_proj") return mlp_inputs;
    if (layer == "o_proj") return attention_inputs;
    return {};
}

/// Forward and backward for the chosen layers; n labels at the last positions.
Counter count_passes(const ModelConfig& model, const std::vector<LinearLayer>& chosen, std::int64_t tokens,
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

std::int64_t rows_of(const ModelConfig& model, const LinearLayer& layer, std::int64_t tokens, std::int64_t labels) {
    const bool everywhere = kind(layer) == "k_proj" || kind(layer) == "v_proj";
    return layer.block == model.blocks - 1 && !everywhere ? labels : tokens;
}

/// |G|^2 by all pairs of rows (each unordered pair once) or by G itself, whichever needs less.
double norm_flops(std::int64_t rows, const LinearLayer& layer) {
    double by_pairs = 0;
    for (std::int64_t a = 0; a < rows; ++a) {
        for (std::int64_t b = 0; b <= a; ++b) by_pairs += 2.0 * static_cast<double>(layer.inputs + layer.outputs);
    }
    return std::min(by_pairs, 2.0 * static_cast<double>(rows * layer.inputs * layer.outputs));
}

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

BOOST_AUTO_TEST_CASE(widths) {
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
    settings.jvp_tangents = 3;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 12);
    settings.embedding_dim = 7;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 7);
    settings.embedding = "hidden";
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 7);
    settings.embedding_dim = 100;
    BOOST_TEST(total_width(embedding_shapes(settings, model)) == 8);
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
