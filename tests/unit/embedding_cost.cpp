// FLOPs, widths and bytes of embeddings, against counting.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <map>

#include "counted_flops.hpp"
#include "failure_of.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/model/cost.hpp"
#include "planning.hpp"

using namespace idistill;
using namespace idistill::embedding;
using namespace idistill::test;
using options::Values;

namespace {

constexpr double single = 4.0;  // bytes of a number
const auto tolerance = boost::test_tools::tolerance(1e-12);

/// Through two blocks, at most so many numbers.
Values values_with(std::int64_t embedding_dim, const std::string& parameters = "down_proj") {
    Values values;
    values.of<EmbeddingSettings>().jvp_blocks = 2;
    values.of<EmbeddingSettings>().embedding_dim = embedding_dim;
    values.of<influence::GradientSettings>().parameters = parameters;
    return values;
}

struct Planned {
    std::unique_ptr<Embedding> embedding;
    plan::Plan plan;
    [[nodiscard]] double bytes() const {  ///< all the time
        double sum = 0.0;
        for (const auto& need : plan.needs) {
            BOOST_TEST((need.during.empty() && need.except.empty()));
            sum += need.per_rank;
        }
        return sum;
    }
};

Planned planned(const std::string& name, const Values& values) {
    Planning planning;
    auto embedding = make_embedding(name, values);
    embedding->plan(planning.planner);
    BOOST_TEST(embedding->name() == name);
    return {std::move(embedding), planning.plan};
}

std::vector<LinearLayer> layers_of_last(std::int64_t blocks, const std::string& parameters) {
    std::vector<LinearLayer> tail;
    for (const auto& layer : model::chosen_layers(small_model(), parameters))
        if (layer.block >= 3 - blocks) tail.push_back(layer);
    return tail;
}

/// As a gradient pass over all 7 tokens whose last block is computed at one row more than the 2 predictors; sketched
/// without norms.
double count_tail(const std::vector<LinearLayer>& layers, std::int64_t length) {
    const auto model = small_model();
    auto counter = count_passes(model, layers, 7, 3);
    counter.add(-2.0 * 2.0 * 4.0 * 10.0);  // logits and back of that row
    for (const auto& layer : layers) {
        const auto rows = rows_of(model, layer, 7, 3);
        counter.product(rows, layer.inputs + layer.outputs, 1);  // into their buckets
        counter.add(static_cast<double>(rows) * (2 * spectrum_flops(length) + 4.0 * static_cast<double>(length)));
    }
    return counter.flops();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(embedding_cost)

BOOST_AUTO_TEST_CASE(jvp) {
    for (const std::int64_t blocks : {1, 2, 3}) {
        for (const std::int64_t rank : {0, 3}) {
            for (const std::int64_t tokens : {1, 6}) {
                auto values = values_with(blocks == 1 ? 5 : 4096);  // 2 * 4 numbers, projected or not
                values.of<EmbeddingSettings>().jvp_blocks = blocks;
                values.of<JvpSettings>() = {.tangents = 2, .direction_rank = rank};
                auto counter = count_tangents(small_model(), tokens, blocks, 2, rank);
                if (blocks == 1) counter.product(1, 8, 5);
                BOOST_TEST(planned("jvp", values).embedding->flops(tokens, 1) == counter.flops(),
                           blocks << " " << rank << " " << tokens);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(hidden) {
    const auto model = small_model();
    Counter counter(model, 6);
    for (const auto& layer : linear_layers(model))
        if (layer.block < 2) counter.product(6, layer.inputs, layer.outputs);
    for (int i = 0; i < 2 * 2; ++i) counter.pair_product(last_positions(6, 6));
    counter.product(1, 2 * 4, 3);
    BOOST_TEST(planned("hidden", values_with(3)).embedding->flops(6, 1) == counter.flops());
}

BOOST_AUTO_TEST_CASE(gradient_tail) {
    // what a layer gets of 28 numbers, or of 496: at most its entries, of those of q_proj 16, of k_proj 8
    const std::map<std::string, std::int64_t> length_of_28{{"down_proj", 24}, {"q_proj|up_proj", 12}, {"", 4}};
    const std::map<std::string, std::int64_t> length_of_496{{"down_proj", 24}, {"q_proj|up_proj", 16}, {"", 8}};
    for (const std::int64_t blocks : {1, 2, 3}) {
        for (const std::string parameters : {"down_proj", "q_proj|up_proj", ""}) {
            const std::int64_t dim = blocks == 1 ? 4 + 4 * 7 : 500;  // half of it for 4 states
            const auto [tail, plan] = planned("gradient-tail:" + std::to_string(blocks), values_with(dim, parameters));
            const auto layers = layers_of_last(blocks, parameters);
            const auto length = (blocks == 1 ? length_of_28 : length_of_496).at(parameters);
            BOOST_TEST(tail->width() == 4 + length * std::ssize(layers));
            BOOST_TEST(tail->width() <= dim);
            BOOST_TEST(tail->flops(7, 2) == count_tail(layers, length), tolerance);
        }
    }
    // 2 of the 4 states, and 3 numbers
    const auto narrow = planned("gradient-tail:1", values_with(5));
    BOOST_TEST(narrow.embedding->width() == 2 + 3);
    Counter projection(small_model(), 1);
    projection.product(1, 4, 2);
    BOOST_TEST(narrow.embedding->flops(7, 2) == count_tail(layers_of_last(1, "down_proj"), 3) + projection.flops(),
               tolerance);
}

BOOST_AUTO_TEST_CASE(gradient_is_the_tail_of_all_blocks_without_a_state) {
    const auto layers = layers_of_last(3, "down_proj");
    const auto whole = planned("gradient", values_with(27));
    BOOST_TEST(whole.embedding->width() == 3 * 9);
    BOOST_TEST(whole.embedding->flops(7, 2) == count_tail(layers, 9), tolerance);
    BOOST_TEST(whole.bytes() == single * 3 * 3 * (4 + 6));  // a bucket, 8 bytes, and a sign
}

BOOST_AUTO_TEST_CASE(an_embedding_that_does_not_fit_the_model_is_refused) {
    const auto failure = [](const std::string& name, std::int64_t dimension, const std::string& parameters) {
        return failure_of(ExitCode::usage, [&] { planned(name, values_with(dimension, parameters)); });
    };
    const auto blocks = failure("gradient-tail:4", 100, "down_proj");
    BOOST_TEST((blocks.where == "--embedding" && contains(blocks.expected, "at most 3")));
    const auto none = failure("gradient-tail:2", 100, "layers.0");
    BOOST_TEST((none.where == "--embedding" && contains(none.expected, "--parameters")));
    const auto narrow = failure("gradient-tail:3", 5, "down_proj|up_proj");
    BOOST_TEST((narrow.where == "--embedding-dim" && contains(narrow.expected, "at least 10") && narrow.found == "5"));
    for (const std::string name : {"jvp", "hidden"}) {
        auto values = values_with(100);
        values.of<EmbeddingSettings>().jvp_blocks = 4;
        const auto many = failure_of(ExitCode::usage, [&] { planned(name, values); });
        BOOST_TEST((many.where == "--jvp-blocks" && contains(many.expected, "at most 3")));
    }
    failure_of(ExitCode::usage, [] { make_embedding("jpv", Values()); });
}

BOOST_AUTO_TEST_CASE(widths) {
    auto values = values_with(4096);
    values.of<JvpSettings>().tangents = 3;
    BOOST_TEST(planned("jvp", values).embedding->width() == 12);
    values.of<EmbeddingSettings>().embedding_dim = 7;
    BOOST_TEST(planned("jvp", values).embedding->width() == 7);
    BOOST_TEST(planned("hidden", values).embedding->width() == 7);
    values.of<EmbeddingSettings>().embedding_dim = 100;
    BOOST_TEST(planned("hidden", values).embedding->width() == 8);
}

BOOST_AUTO_TEST_CASE(a_file_is_planned_from_what_was_read_of_it) {
    auto values = values_with(4096);
    values.of<EmbeddingFiles>().by_path["no/such.h5"] = {5, "abc"};
    const auto file = planned("no/such.h5", values);
    BOOST_TEST((file.embedding->width() == 5 && file.embedding->identity() == "file abc"));
    BOOST_TEST((file.bytes() == 8.0 * 1000 && file.embedding->unit_bytes({.rows = 3}) == 8.0 * 5 * 3));
    values.of<EmbeddingSettings>().embedding = "jvp+no/such.h5";
    BOOST_TEST(failure_of(ExitCode::bad_input, [&] { embedding::look_at_files(values); }).where == "no/such.h5");
}

BOOST_AUTO_TEST_CASE(bytes) {
    // low rank, two tangents: of the tokens' embedding 10 + 4, in each of two blocks q, o 8, k, v 6, gate, up, down 10
    auto values = values_with(4096);
    BOOST_TEST(planned("jvp", values).bytes() == single * 2 * 8 * (14 + 2 * (2 * 8 + 2 * 6 + 3 * 10)));
    values.of<JvpSettings>().direction_rank = 0;
    BOOST_TEST(planned("jvp", values).bytes() == single * 2 * (40 + 2 * 120));
    values.of<EmbeddingSettings>().embedding_dim = 5;  // projected from 8
    BOOST_TEST(planned("jvp", values).bytes() == single * 2 * (40 + 2 * 120) + single * 8 * 5);
    BOOST_TEST(planned("hidden", values).bytes() == single * 8 * 5);
    BOOST_TEST(planned("hidden", values_with(8)).bytes() == 0.0);
    // four states, the maps of down_proj's sketch, 4 x 6
    BOOST_TEST(planned("gradient-tail:1", values_with(8)).bytes() == single * 3 * (4 + 6));
    BOOST_TEST(planned("gradient-tail:1", values_with(5)).bytes() == single * (4 * 2 + 3 * (4 + 6)));  // two of them
}

BOOST_AUTO_TEST_CASE(bytes_of_a_pass) {
    const auto model = small_model();
    const auto values = values_with(100);
    const plan::Batch batch{.rows = 60, .tokens = 700, .samples = 40, .labels = 90, .longest = 50};
    const auto pass = [&](const std::string& name) {
        return planned(name, values).embedding->pass_bytes(batch).together();
    };
    BOOST_TEST(pass("hidden") == model::state_activation_bytes(model, 0, 700));
    BOOST_TEST(pass("jvp") == model::state_activation_bytes(model, 2, 700));
    // rows that predict a label and the samples' last tokens
    BOOST_TEST(pass("gradient-tail:1") == model::gradient_activation_bytes(model, 2, batch, 90 + 40));
    BOOST_TEST(pass("gradient") == model::gradient_activation_bytes(model, 0, batch, 90 + 40));
}

BOOST_AUTO_TEST_CASE(bytes_of_a_unit) {
    const plan::Batch batch{.rows = 60, .tokens = 700, .samples = 40, .labels = 90, .longest = 50};
    const auto unit = [&](const std::string& name, std::int64_t embedding_dim) {
        return planned(name, values_with(embedding_dim)).embedding->unit_bytes(batch);
    };
    // rows of a unit and of a micro-batch: hidden 2 blocks of 4, jvp 2 tangents of 4, four states and a square of 4
    BOOST_TEST(unit("hidden", 100) == single * 8 * (60 + 40));
    BOOST_TEST(unit("jvp", 5) == single * 5 * (60 + 40));
    BOOST_TEST(unit("gradient-tail:1", 8) == single * 8 * (60 + 40));
}

BOOST_AUTO_TEST_CASE(what_to_use_instead) {
    const auto remedy = [](const std::string& name, Values values) {
        const auto needs = planned(name, values).plan.needs;
        return needs.empty() ? std::string() : needs.front().remedy;
    };
    auto values = values_with(5);
    for (const auto* name : {"jvp", "hidden", "gradient-tail:1"})
        BOOST_TEST(contains(remedy(name, values), "--embedding-dim"), name);
    values.of<JvpSettings>().direction_rank = 0;
    BOOST_TEST(contains(remedy("jvp", values), "--jvp-rank"));
}

BOOST_AUTO_TEST_SUITE_END()
