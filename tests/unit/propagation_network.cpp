// The network of pairs and its learning against autograd and Adam of PyTorch, unfactorised and in fp64.

#include <ATen/ATen.h>
#include <torch/optim/adam.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "../../src/propagation/network/training.hpp"
#include "idistill/propagation/influence_network.hpp"

using namespace idistill::propagation;
using at::Tensor;

namespace {

Tensor random_rows(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    auto random = at::detail::createCPUGenerator(seed);
    return at::randn({rows, columns}, random, at::TensorOptions().dtype(at::kFloat));
}

/// What the layers give for every pair of a row with a column, fp64: of [e_i, e_j] put side by side.
Tensor by_layers(const NetworkLayers& layers, const Tensor& rows, const Tensor& columns) {
    const auto n = rows.size(0), m = columns.size(0), e = rows.size(1);
    auto hidden = at::cat({rows.unsqueeze(1).expand({n, m, e}), columns.unsqueeze(0).expand({n, m, e})}, 2);
    for (std::size_t layer = 0; layer < layers.weight.size(); ++layer) {
        hidden = at::matmul(hidden, layers.weight[layer].t()) + layers.bias[layer];
        if (layer + 1 < layers.weight.size()) hidden = at::relu(hidden);
    }
    return hidden.squeeze(2);
}

Tensor naive_pairs(const NetworkShape& shape, const NetworkLayers& layers, const Tensor& rows, const Tensor& columns) {
    const auto one = by_layers(layers, rows, columns);
    return shape.symmetric ? 0.5 * (one + by_layers(layers, columns, rows).t()) : one;
}

Tensor naive_samples(const NetworkLayers& layers, const Tensor& rows) {
    auto hidden = rows;
    for (std::size_t layer = 0; layer < layers.weight.size(); ++layer) {
        hidden = at::matmul(hidden, layers.weight[layer].t()) + layers.bias[layer];
        if (layer + 1 < layers.weight.size()) hidden = at::relu(hidden);
    }
    return hidden;
}

const std::vector<NetworkShape> pair_shapes{
    {.embedding = 7, .width = 9},
    {.embedding = 7, .width = 100, .symmetric = true},
    {.embedding = 5, .width = 33, .residual = true},
    {.embedding = 5, .width = 8, .depth = 2},
    {.embedding = 4, .width = 6, .depth = 3, .symmetric = true, .residual = true}};

NetworkScaling scaling_of(const NetworkShape& shape, std::uint64_t seed) {
    NetworkScaling scaling{.length = 0.5 + 0.1 * static_cast<double>(seed % 7), .gain = {}, .offset = {}};
    for (std::int64_t k = 0; k < shape.outputs; ++k) {
        scaling.gain.push_back(2.5 + static_cast<double>(k));
        scaling.offset.push_back(-0.75 * static_cast<double>(k) + 0.3);
    }
    if (shape.residual) scaling.slope = 1.75;
    return scaling;
}

double largest(const Tensor& values) { return values.abs().max().item<double>(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_network)

BOOST_AUTO_TEST_CASE(scores_are_those_of_the_whole_network) {
    std::uint64_t seed = 0;
    for (const auto& shape : pair_shapes) {
        seed += 10;
        const auto parameters = random_rows(1, shape.parameters(), seed).view({-1});
        const auto scaling = scaling_of(shape, seed + 1);
        const InfluenceNetwork network(shape, parameters, scaling);
        for (const auto& [n, m] : {std::pair(1, 1), {3, 40}, {70, 5}, {6, 64}, {0, 4}, {4, 0}}) {
            const auto rows = random_rows(n, shape.embedding, seed + 2),
                       columns = random_rows(m, shape.embedding, seed + 3);
            const auto scores = network.scores(network.left(rows), network.right(columns));
            BOOST_TEST_REQUIRE((scores.size(0) == n && scores.size(1) == m));
            if (scores.numel() == 0) continue;
            const auto seen = [&](const Tensor& e) { return e.to(at::kDouble) / scaling.length; };
            auto expected = scaling.gain[0] * naive_pairs(shape, layers_of(shape, parameters.to(at::kDouble)),
                                                          seen(rows), seen(columns)) +
                            scaling.offset[0];
            const auto unit = [](const Tensor& e) { return e.to(at::kDouble) / e.to(at::kDouble).norm(2, {1}, true); };
            expected = expected + scaling.slope * unit(rows).matmul(unit(columns).t());
            BOOST_TEST(largest(scores - expected) < 2e-5 * largest(expected), "shape of seed " << seed);
        }
    }
}

BOOST_AUTO_TEST_CASE(samples_alone_have_several_outputs) {
    const NetworkShape shape{.embedding = 6, .width = 11, .depth = 2, .outputs = 3, .pairs = false};
    BOOST_TEST(shape.parameters() == 6 * 11 + 11 + 11 * 11 + 11 + 11 * 3 + 3);
    const auto parameters = random_rows(1, shape.parameters(), 3).view({-1});
    const auto scaling = scaling_of(shape, 4);
    const auto rows = random_rows(20, 6, 5);
    const auto found = InfluenceNetwork(shape, parameters, scaling).of_samples(rows);
    const auto expected =
        naive_samples(layers_of(shape, parameters.to(at::kDouble)), rows.to(at::kDouble) / scaling.length) *
            at::tensor(scaling.gain, at::kDouble) +
        at::tensor(scaling.offset, at::kDouble);
    BOOST_TEST(largest(found - expected) < 2e-5 * largest(expected));
}

// [e_i, 0, e_j] of BGE-large: 205,101 parameters as published, of which the hundred of the 0 are not kept.
BOOST_AUTO_TEST_CASE(the_published_network_has_its_size) {
    const NetworkShape shape{.embedding = 1024};
    BOOST_TEST(shape.parameters() + shape.width == 205101);
    // A pair: 100 sums, each with a ReLU's multiply and add to the score.
    BOOST_TEST(shape.pair_flops() == 2.0 * 100 + 2.0 * 100);
    BOOST_TEST(shape.half_flops() == 2.0 * 1024 * 100);
    const auto start = Training(shape, 43).parameters();
    const auto first = layers_of(shape, start).weight[0];
    BOOST_TEST(std::fabs(largest(first) - 1.0 / std::sqrt(2049.0)) < 1e-6);
    BOOST_TEST(std::fabs(first.mean().item<double>()) < 2e-4);
    BOOST_TEST(std::fabs(first.square().mean().item<double>() * 3 * 2049 - 1.0) < 0.01);
}

BOOST_AUTO_TEST_CASE(a_score_depends_on_its_two_samples_alone) {
    for (const bool symmetric : {false, true}) {
        const NetworkShape shape{.embedding = 12, .width = 100, .symmetric = symmetric};
        const InfluenceNetwork network(shape, random_rows(1, shape.parameters(), 1).view({-1}), scaling_of(shape, 2));
        const auto left = network.left(random_rows(41, 12, 3)), right = network.right(random_rows(77, 12, 4));
        const auto all = network.scores(left, right);
        for (const auto& [row, rows, column, columns] :
             std::vector<std::array<std::int64_t, 4>>{{0, 1, 0, 77}, {3, 5, 31, 2}, {40, 1, 76, 1}, {7, 30, 5, 33}})
            BOOST_TEST(at::equal(network.scores(left.narrow(0, row, rows), right.narrow(0, column, columns)),
                                 all.narrow(0, row, rows).narrow(1, column, columns)));
    }
}

BOOST_AUTO_TEST_CASE(a_sample_that_is_not_finite_harms_no_other) {
    for (const auto& shape : pair_shapes) {
        const InfluenceNetwork network(shape, random_rows(1, shape.parameters(), 1).view({-1}), scaling_of(shape, 2));
        auto rows = random_rows(9, shape.embedding, 3), columns = random_rows(6, shape.embedding, 4);
        const auto clean = network.scores(network.left(rows), network.right(columns));
        rows[4][1] = std::numeric_limits<float>::infinity();
        columns[2][0] = std::numeric_limits<float>::quiet_NaN();
        const auto found = network.scores(network.left(rows), network.right(columns));
        BOOST_TEST((found[4].isnan().all().item<bool>() && found.select(1, 2).isnan().all().item<bool>()));
        for (const std::int64_t row : {0, 3, 5, 8})
            for (const std::int64_t column : {0, 1, 3, 5})
                BOOST_TEST(found[row][column].item<float>() == clean[row][column].item<float>());
    }
}

BOOST_AUTO_TEST_CASE(a_symmetric_score_is_the_same_both_ways) {
    const NetworkShape shape{.embedding = 8, .width = 20, .symmetric = true};
    const InfluenceNetwork network(shape, random_rows(1, shape.parameters(), 1).view({-1}), scaling_of(shape, 2));
    const auto e = random_rows(15, 8, 3);
    const auto scores = network.scores(network.left(e), network.right(e));
    BOOST_TEST(largest(scores - scores.t()) < 1e-5 * largest(scores));
}

BOOST_AUTO_TEST_CASE(learning_is_that_of_pytorch) {
    auto shapes = pair_shapes;
    shapes.push_back({.embedding = 6, .width = 12, .outputs = 4, .pairs = false});
    shapes.push_back({.embedding = 6, .width = 12, .depth = 2, .outputs = 2, .pairs = false});
    for (const auto& shape : shapes) {
        constexpr std::int64_t samples = 11, batch = 16;
        constexpr double rate = 1e-3;
        Examples examples{random_rows(samples, shape.embedding, 5), {}, {}};
        std::vector<Pair> pairs;
        if (shape.pairs) examples.columns = random_rows(samples, shape.embedding, 6);
        examples.labels = random_rows(samples, shape.pairs ? samples : shape.outputs, 7);
        for (std::int32_t row = 0; row < samples; ++row)
            for (std::int32_t column = 0; column < (shape.pairs ? samples : 1); ++column)
                if (!shape.pairs || column != row) pairs.push_back({row, column});
        Training training(shape, 43, {.rate = rate, .batch = batch});
        auto weights = training.parameters().to(at::kDouble).set_requires_grad(true);
        torch::optim::Adam adam({weights}, torch::optim::AdamOptions(rate));
        for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
            shuffle(pairs, 43, epoch);
            double expected_squares = 0.0;
            for (std::size_t first = 0; first < pairs.size(); first += batch) {
                std::vector<std::int64_t> i, j;
                for (auto at = first; at < std::min(pairs.size(), first + batch); ++at) {
                    i.push_back(pairs[at].row);
                    j.push_back(pairs[at].column);
                }
                const auto row = at::tensor(i), column = at::tensor(j);
                const auto rows = examples.rows.to(at::kDouble), labels = examples.labels.to(at::kDouble);
                const auto layers = layers_of(shape, weights);
                Tensor error;
                if (shape.pairs) {
                    const auto all = naive_pairs(shape, layers, rows, examples.columns.to(at::kDouble));
                    error = (all - labels).index({row, column});
                } else {
                    error = (naive_samples(layers, rows) - labels).index({row});
                }
                adam.zero_grad();
                error.square().mean().backward();
                adam.step();
                expected_squares += error.detach().square().sum().item<double>();
            }
            const double squares = training.learn(examples, pairs);
            BOOST_TEST(std::fabs(squares / expected_squares - 1.0) < 1e-4);
        }
        BOOST_TEST(largest(training.parameters() - weights.detach()) < 2e-5);
    }
}

BOOST_AUTO_TEST_CASE(an_epoch_of_few_pairs_goes_through_them_again) {
    BOOST_TEST(passes_of(1) == 500);
    BOOST_TEST(passes_of(64) == 500);
    BOOST_TEST(passes_of(65) == 250);
    BOOST_TEST(passes_of(64 * 300) == 2);
    BOOST_TEST(passes_of(64 * 499) == 2);
    BOOST_TEST(passes_of(64 * 499 + 1) == 1);
    BOOST_TEST(passes_of(1'200'000) == 1);
}

BOOST_AUTO_TEST_CASE(what_is_restored_goes_on_as_if_it_had_not_stopped) {
    const NetworkShape shape{.embedding = 6, .width = 10};
    const Examples examples{random_rows(9, 6, 1), random_rows(9, 6, 2), random_rows(9, 9, 3)};
    std::vector<Pair> pairs;
    for (std::int32_t row = 0; row < 9; ++row)
        for (std::int32_t column = 0; column < 9; ++column) pairs.push_back({row, column});
    Training whole(shape, 1);
    whole.learn(examples, pairs);
    const auto numbers = [](const Tensor& values) {
        return std::vector<float>(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel());
    };
    Training again(shape, 99);
    again.restore(2, numbers(whole.parameters()), numbers(whole.first_moment()), numbers(whole.second_moment()));
    whole.learn(examples, pairs);
    again.learn(examples, pairs);
    BOOST_TEST(at::equal(whole.parameters(), again.parameters()));
}

BOOST_AUTO_TEST_CASE(every_epoch_has_an_order_of_its_own) {
    std::vector<Pair> pairs;
    for (std::int32_t row = 0; row < 50; ++row) pairs.push_back({row, row % 7});
    const auto sorted = pairs;
    auto before = pairs;
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
        shuffle(pairs, 43, epoch);
        BOOST_TEST((pairs != before));
        before = pairs;
        auto ordered = pairs;
        std::sort(ordered.begin(), ordered.end(), [](const Pair& a, const Pair& b) { return a.row < b.row; });
        BOOST_TEST((ordered == sorted));
    }
    auto again = sorted;
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) shuffle(again, 43, epoch);
    BOOST_TEST((again == pairs));
}

BOOST_AUTO_TEST_SUITE_END()
