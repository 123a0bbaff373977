// Random directions and the embeddings made of them.

#include <boost/test/unit_test.hpp>

#include "idistill/embedding/directions.hpp"
#include "idistill/embedding/encoder.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using embedding::JvpSettings;
using model::LinearDirections;

namespace {

constexpr std::int64_t one_by_one = 1, all_at_once = 1'000'000, unprojected = 1 << 20;
const std::vector<std::int64_t> lengths{9, 1, 70, 5, 5, 33, 140};

/// dW (outputs x inputs) of direction k for the whole stack, from left and right or dense.
Tensor dense_of(const LinearDirections& d, std::int64_t k, std::int64_t count) {
    const auto direction = static_cast<std::size_t>(k);
    if (!d.right.defined()) return d.dense[direction];
    std::vector<Tensor> parts;
    for (std::size_t p = 0; p < d.left.size(); ++p) {
        const auto rank = d.left[p][direction].size(0);
        parts.push_back(
            at::mm(d.right.narrow(1, (static_cast<std::int64_t>(p) * count + k) * rank, rank), d.left[p][direction])
                .t());
    }
    return at::cat(parts);
}

/// Every parameter that a direction moves, with its tangent.
struct Moved {
    Tensor parameter, tangent;
};
std::vector<Moved> moved(const model::Decoder& decoder, const model::Directions& d, std::int64_t k) {
    const auto direction = static_cast<std::size_t>(k);
    const auto vocabulary = decoder.config().vocabulary;
    std::vector<Moved> all{
        {decoder.embedding(), d.embedding(at::arange(vocabulary)).narrow(0, k * vocabulary, vocabulary)}};
    for (std::size_t b = 0; b < d.blocks.size(); ++b) {
        const auto& block = decoder.blocks()[b];
        const auto& own = d.blocks[b];
        const auto vector = [&](const Tensor& parameter, const std::vector<Tensor>& tangents) {
            BOOST_TEST(parameter.defined() == !tangents.empty());
            if (parameter.defined()) all.push_back({parameter, tangents[direction]});
        };
        vector(block.input_norm, own.input_norm);
        vector(block.attention_norm, own.attention_norm);
        vector(block.query_norm, own.query_norm);
        vector(block.key_norm, own.key_norm);
        for (const auto& [layer, tangent] : {std::pair{block.qkv, own.qkv}, std::pair{block.output, own.output},
                                             std::pair{block.gate_up, own.gate_up}, std::pair{block.down, own.down}}) {
            all.push_back({layer.weight, dense_of(tangent, k, d.count)});
            vector(layer.bias, tangent.bias);
        }
    }
    return all;
}

/// What the JVP embedding is drawn by.
struct Drawn {
    std::int64_t blocks;
    JvpSettings jvp;
    std::uint64_t seed = 43;
};

model::Directions directions_of(const model::Decoder& decoder, const Drawn& drawn) {
    return embedding::random_directions(decoder, drawn.blocks, drawn.jvp, drawn.seed);
}

std::unique_ptr<embedding::Encoder> jvp_encoder(const model::Decoder& decoder, const Drawn& drawn, std::int64_t width) {
    return embedding::make_jvp_encoder(decoder, drawn.blocks, drawn.jvp, drawn.seed, width);
}

/// All numbers of a direction side by side.
Tensor numbers(const model::Decoder& decoder, const Drawn& settings, std::int64_t k) {
    std::vector<Tensor> flat;
    for (const auto& [parameter, tangent] : moved(decoder, directions_of(decoder, settings), k)) {
        BOOST_TEST((parameter.sizes() == tangent.sizes()));
        flat.push_back(tangent.reshape({-1}));
    }
    return at::cat(flat);
}

/// Final-normed hidden states (length x d) of a sample alone.
Tensor hidden_alone(const model::Decoder& decoder, const data::Samples& samples, std::int64_t i, std::int64_t blocks) {
    return model::hidden_states(decoder, model::pack(decoder, samples, {i}, {length_of(samples, i)}), blocks);
}

double value(const Tensor& x) { return x.item<double>(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(embedding_embedding)

BOOST_AUTO_TEST_CASE(directions_depend_on_seed_direction_and_name_alone) {
    const TinyModel tiny(tiny_llama()), other_weights(tiny_llama(), 9);
    for (const std::int64_t rank : {0, 3}) {
        const Drawn settings{.blocks = 2, .jvp = {2, rank}};
        auto fewer = settings, other_seed = settings;
        fewer.blocks = fewer.jvp.tangents = 1;
        other_seed.seed = 44;
        const auto first = numbers(tiny.decoder(), settings, 0), second = numbers(tiny.decoder(), settings, 1);
        BOOST_TEST(same_bits(first, numbers(tiny.decoder(), settings, 0)));
        BOOST_TEST(same_bits(first, numbers(other_weights.decoder(), settings, 0)));
        const auto shorter =
            numbers(tiny.decoder(), fewer, 0);  // neither later blocks nor more directions change a number
        BOOST_TEST(relative_error(shorter, first.narrow(0, 0, shorter.size(0))) < 1e-6);
        for (const auto& other : {second, numbers(tiny.decoder(), other_seed, 0)}) {
            const double cosine = value((first * other).sum() / first.norm() / other.norm());
            BOOST_TEST(std::abs(cosine) < 5 / std::sqrt(static_cast<double>(first.size(0)) / 20.0));
        }
        // Each factor of a low-rank direction is its own, and so are layers of the same shape in different blocks.
        const auto d = directions_of(tiny.decoder(), settings);
        for (const auto* layer : {&d.blocks[0].qkv, &d.blocks[0].down}) {
            for (std::size_t p = 0; p < layer->left.size(); ++p) {
                const auto right = [&](std::int64_t k) {
                    return layer->right.narrow(1, (2 * static_cast<std::int64_t>(p) + k) * rank, rank);
                };
                BOOST_TEST(!same_bits(layer->left[p][0], layer->left[p][1]));
                BOOST_TEST(!same_bits(right(0), right(1)));
            }
        }
        const auto rows = d.embedding(at::arange(2));  // (2 directions x 2 tokens) x d
        BOOST_TEST(at::linalg_matrix_rank(rows.to(torch::kFloat64), 1e-3).item<std::int64_t>() == 4);
        BOOST_TEST(!same_bits(dense_of(d.blocks[0].down, 0, 2), dense_of(d.blocks[1].down, 0, 2)));
        BOOST_TEST(!same_bits(d.blocks[0].input_norm[0], d.blocks[0].attention_norm[0]));
        const auto c = tiny.config();
        const auto gate_up = dense_of(d.blocks[0].gate_up, 0, 2);
        BOOST_TEST(!same_bits(gate_up.narrow(0, 0, c.intermediate), gate_up.narrow(0, c.intermediate, c.intermediate)));
    }
}

// Mean square over every kind of parameter; the standard error comes from the spread over seeds.
BOOST_AUTO_TEST_CASE(entries_have_variance_one) {
    const TinyModel tiny(tiny_llama());
    for (const std::int64_t rank : {0, 1, 4}) {
        constexpr std::int64_t seeds = 300;
        std::vector<Tensor> squares, means;
        for (std::uint64_t seed = 0; seed < seeds; ++seed) {
            const Drawn settings{.blocks = 1, .jvp = {1, rank}, .seed = seed};
            std::vector<double> square, mean;
            for (const auto& [parameter, tangent] : moved(tiny.decoder(), directions_of(tiny.decoder(), settings), 0)) {
                square.push_back(value(tangent.square().mean()));
                mean.push_back(value(tangent.mean()));
            }
            squares.push_back(at::tensor(square, at::TensorOptions().dtype(torch::kFloat64)));
            means.push_back(at::tensor(mean, at::TensorOptions().dtype(torch::kFloat64)));
        }
        const auto check = [](const std::vector<Tensor>& found, double expected) {
            const auto all = at::stack(found);
            const auto standard_error = all.std(0) / std::sqrt(static_cast<double>(seeds));
            BOOST_TEST(value(((all.mean(0) - expected).abs() / standard_error).max()) < 4.5);
            BOOST_TEST(value(standard_error.max()) < 0.1);
        };
        check(squares, 1.0);
        check(means, 0.0);
    }
}

// The tangents against moving every weight along the direction and looking at the last token's hidden state.
BOOST_AUTO_TEST_CASE(tangents_are_finite_differences) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto decoder = tiny.in_double();
        const auto samples = random_samples(config.vocabulary, lengths, 3);
        for (const auto& settings : {Drawn{1, {2, 0}}, Drawn{2, {2, 3}}, Drawn{3, {1, 0}, 7}}) {
            const auto found = (*jvp_encoder(decoder, settings, unprojected))(samples, all_at_once);
            BOOST_TEST((found.sizes() == at::IntArrayRef{samples.size(), settings.jvp.tangents * config.hidden}));
            const auto directions = directions_of(decoder, settings);
            for (std::int64_t k = 0; k < settings.jvp.tangents; ++k) {
                const auto move = [&](double h) {
                    for (const auto& [parameter, tangent] : moved(decoder, directions, k))
                        Tensor(parameter).add_(tangent, h);
                };
                const auto last = [&] {
                    std::vector<Tensor> rows;
                    for (std::int64_t i = 0; i < samples.size(); ++i)
                        rows.push_back(hidden_alone(decoder, samples, i, settings.blocks)[-1]);
                    return at::stack(rows);
                };
                constexpr double h = 1e-6;
                move(h);
                const auto above = last();
                move(-2 * h);
                const auto below = last();
                move(h);
                BOOST_TEST(relative_error(found.narrow(1, k * config.hidden, config.hidden),
                                          (above - below) / (2 * h)) < 1e-6);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(hidden_embedding_is_mean_and_last_hidden_state) {
    const TinyModel tiny(tiny_qwen3());
    const auto samples = random_samples(23, lengths, 3);
    for (const std::int64_t blocks : {1, 3}) {
        const auto found =
            (*embedding::make_hidden_encoder(tiny.decoder(), blocks, 43, unprojected))(samples, all_at_once);
        for (std::int64_t i = 0; i < samples.size(); ++i) {
            const auto own = hidden_alone(tiny.in_double(), samples, i, blocks);
            BOOST_TEST(relative_error(found[i], at::cat({own.mean(0), own[-1]})) < 1e-5);
        }
    }
}

BOOST_AUTO_TEST_CASE(embeddings_do_not_depend_on_the_micro_batch) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto twice = tiny.in_double();
        const auto samples = random_samples(config.vocabulary, lengths, 3);
        const auto check = [&](const embedding::Encoder& single, const embedding::Encoder& in_double,
                               std::int64_t width) {
            BOOST_TEST(single.width() == width);
            const auto truth = in_double(samples, one_by_one);
            for (const std::int64_t batch_tokens : {one_by_one, std::int64_t{40}, all_at_once}) {
                const auto found = single(samples, batch_tokens);
                BOOST_TEST(found.scalar_type() == torch::kFloat32);
                for (std::int64_t i = 0; i < samples.size(); ++i) BOOST_TEST(relative_error(found[i], truth[i]) < 1e-5);
            }
        };
        for (const std::int64_t width : {std::int64_t{7}, unprojected}) {
            for (const std::int64_t rank : {0, 3}) {
                const Drawn settings{.blocks = 2, .jvp = {2, rank}};
                check(*jvp_encoder(tiny.decoder(), settings, width), *jvp_encoder(twice, settings, width),
                      std::min<std::int64_t>(width, 24));
            }
            check(*embedding::make_hidden_encoder(tiny.decoder(), 2, 43, width),
                  *embedding::make_hidden_encoder(twice, 2, 43, width), std::min<std::int64_t>(width, 24));
        }
    }
}

BOOST_AUTO_TEST_CASE(samples_without_tokens_get_zeros) {
    const TinyModel tiny(tiny_llama());
    const auto samples = random_samples(23, {0, 4, 0, 2}, 3), none = random_samples(23, {0, 0}, 3);
    const auto check = [&](const embedding::Encoder& embedding) {
        const auto found = embedding(samples, all_at_once);
        for (std::int64_t i = 0; i < 4; ++i) BOOST_TEST((value(found[i].abs().max()) == 0.0) == (i % 2 == 0));
        BOOST_TEST(value(embedding(none, all_at_once).abs().max()) == 0.0);
    };
    check(*jvp_encoder(tiny.decoder(), {.blocks = 2, .jvp = {2, 3}}, 8));
    check(*embedding::make_hidden_encoder(tiny.decoder(), 3, 43, 8));
}

// E <p_i, p_j> = <h_i, h_j> over seeds, where the seed moves the projection alone.
BOOST_AUTO_TEST_CASE(projection_keeps_inner_products_on_average) {
    const TinyModel tiny(tiny_llama());
    const auto samples = random_samples(23, {9, 1, 30, 5}, 3);
    const auto whole =
        (*embedding::make_hidden_encoder(tiny.decoder(), 1, 0, unprojected))(samples, all_at_once).to(torch::kFloat64);
    const auto exact = at::mm(whole, whole.t());
    constexpr std::int64_t seeds = 1500;
    std::vector<Tensor> found;
    for (std::uint64_t seed = 0; seed < seeds; ++seed) {
        const auto projected =
            (*embedding::make_hidden_encoder(tiny.decoder(), 1, seed, 9))(samples, all_at_once).to(torch::kFloat64);
        found.push_back(at::mm(projected, projected.t()));
    }
    const auto all = at::stack(found);
    const auto standard_error = all.std(0) / std::sqrt(static_cast<double>(seeds));
    BOOST_TEST(value(((all.mean(0) - exact).abs() / standard_error).max()) < 4.5);
    BOOST_TEST(value(standard_error.diag().div(exact.diag()).max()) < 0.03);
    BOOST_TEST(!same_bits(found[0], found[1]));
}

BOOST_AUTO_TEST_SUITE_END()
