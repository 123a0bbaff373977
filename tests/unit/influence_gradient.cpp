// Per-sample gradients, norms and products: the same by every route and in every micro-batch.

#include <boost/test/unit_test.hpp>
#include <limits>

#include "idistill/influence/gradient/passes.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "sketch_kinds.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using influence::GradientRows;
using model::ChosenLayers;

namespace {

constexpr std::int64_t one_by_one = 1, all_at_once = 1'000'000;
const std::vector<std::int64_t> lengths{9, 2, 70, 5, 5, 33, 14};
const at::TensorOptions in_double = at::TensorOptions().dtype(torch::kFloat64);

struct Fixture {
    TinyModel tiny{tiny_llama()};
    model::Decoder twice = tiny.in_double();
    ChosenLayers chosen{tiny.config(), model::chosen_layers(tiny.config(), "down_proj|k_proj|layers.2.*q_proj")};
    data::Samples samples = random_samples(tiny.config().vocabulary, lengths, 31);

    [[nodiscard]] GradientRows rows(const model::Decoder& decoder, SketchKind kind, const data::Samples& of,
                                    std::int64_t batch_tokens) const {
        const auto sketch = influence::make_sketch(kind, chosen.layers(), 7 * 16, 43, decoder.options());
        return influence::gradient_sketches(decoder, chosen, *sketch, of, batch_tokens);
    }
    /// Whole gradients (n x P) in double.
    [[nodiscard]] Tensor gradients() const { return rows(twice, SketchKind::none, samples, one_by_one).features; }
};

model::LayerTap tap_of(const Tensor& x, const Tensor& y, const std::vector<std::int64_t>& offsets) {
    return {0, x, y, offsets};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_gradient)

// Three million numbers whose products all but cancel: a sum of fp32 alone is wrong in the third digit.
BOOST_AUTO_TEST_CASE(long_inner_products_are_right_to_five_digits) {
    constexpr std::int64_t length = 3'000'001;
    const auto others = normal({2, length}, 1).to(torch::kFloat32);
    const auto rows = (normal({3, length}, 2).to(torch::kFloat32) + 0.01 * others[0]).contiguous();
    const auto exact = at::mm(rows.to(torch::kFloat64), others.to(torch::kFloat64).t());
    const auto found = influence::inner_products(rows, others);
    BOOST_TEST(found.scalar_type() == torch::kFloat64);
    const auto norms = at::outer(rows.norm(2, {1}), others.norm(2, {1})).to(torch::kFloat64);
    BOOST_TEST(((found - exact).abs() / norms).max().item<double>() < 1e-8);
    BOOST_TEST(relative_error(influence::inner_products(rows.to(torch::kFloat64), others.to(torch::kFloat64)), exact) <
               1e-12);
    BOOST_TEST(influence::inner_products(rows.narrow(1, 0, 0), others.narrow(1, 0, 0)).abs().sum().item<double>() == 0);
}

// A sample with few rows is measured by its Gram matrices, one with many by its gradient; rows of zeros change the
// route only.
BOOST_AUTO_TEST_CASE(squared_norms_are_the_same_by_both_routes) {
    for (const std::int64_t outputs : {20, 31}) {
        const auto x = normal({5, 20}, 1), y = normal({5, outputs}, 2);
        const double exact = at::mm(y.t(), x).square().sum().item<double>();
        const auto padded = [](const Tensor& t) { return at::cat({t, at::zeros({40, t.size(1)}, in_double)}); };
        for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
            auto squared = at::tensor({0.25, 0.5}, in_double);
            influence::accumulate_squared_norms(
                tap_of(at::cat({x, padded(x)}).to(dtype), at::cat({y, padded(y)}).to(dtype), {0, 5, 50}), squared);
            const double tolerance = (dtype == torch::kFloat64 ? 1e-13 : 1e-6) * exact;
            BOOST_TEST(std::abs(squared[0].item<double>() - 0.25 - exact) < tolerance);
            BOOST_TEST(std::abs(squared[1].item<double>() - 0.5 - exact) < tolerance);
        }
    }
}

// Two rows that cancel, up to rounding: the sum of products may come out below zero, its root must not be NaN.
BOOST_AUTO_TEST_CASE(rows_that_cancel_have_a_norm) {
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
        const auto x = normal({1, 30}, 2 * seed).to(torch::kFloat32),
                   y = normal({1, 30}, 2 * seed + 1).to(torch::kFloat32);
        auto squared = at::zeros({1}, in_double);
        influence::accumulate_squared_norms(tap_of(at::cat({x, x * 3, x * 7}), at::cat({y, y * 2, -y}), {0, 3}),
                                            squared);
        BOOST_TEST(squared[0].item<double>() >= 0.0);
        const double terms =
            86 * x.square().sum().item<double>() * y.square().sum().item<double>();  // (1 + 6^2 + 7^2) |x|^2 |y|^2
        BOOST_TEST(squared[0].item<double>() < 1e-6 * terms);
    }
    auto squared = at::zeros({1}, in_double);
    const auto bad = at::full({2, 30}, std::numeric_limits<double>::quiet_NaN(), in_double);
    influence::accumulate_squared_norms(tap_of(bad, bad, {0, 2}), squared);
    BOOST_TEST(std::isnan(squared[0].item<double>()));
}

// Few rows and one direction go by the rows, many rows or directions by the gradient.
BOOST_AUTO_TEST_CASE(contractions_are_products_with_the_explicit_gradient) {
    const std::vector<std::int64_t> offsets{0, 2, 3, 40};
    const auto x = normal({40, 6}, 1), y = normal({40, 4}, 2);
    for (const std::int64_t count : {1, 3}) {
        const auto directions = normal({count, 5, 4, 6}, 3).select(1, 2);  // strided, as layers within a long row are
        auto products = at::ones({3, count}, in_double);
        auto squared = at::ones({3}, in_double);
        influence::accumulate_products_and_norms(tap_of(x, y, offsets), directions, products, squared);
        for (std::int64_t i = 0; i < 3; ++i) {
            auto gradient = at::zeros({4, 6}, in_double);
            for (auto r = offsets[static_cast<std::size_t>(i)]; r < offsets[static_cast<std::size_t>(i) + 1]; ++r)
                gradient += at::outer(y[r], x[r]);
            BOOST_TEST(relative_error(squared[i], 1.0 + gradient.square().sum()) < 1e-13);
            for (std::int64_t c = 0; c < count; ++c) {
                const double expected = 1.0 + (gradient * directions[c]).sum().item<double>();
                BOOST_TEST(std::abs(products[i][c].item<double>() - expected) < 1e-12);
            }
        }
    }
}

BOOST_FIXTURE_TEST_CASE(rows_do_not_depend_on_the_micro_batch, Fixture) {
    for (const auto kind : sketch_kinds) {
        const auto alone = rows(tiny.decoder(), kind, samples, one_by_one);
        const auto truth = rows(twice, kind, samples, one_by_one);
        for (const std::int64_t batch_tokens : {one_by_one, std::int64_t{40}, all_at_once}) {
            const auto found = rows(tiny.decoder(), kind, samples, batch_tokens);
            BOOST_TEST(relative_error(found.loss, truth.loss) < 1e-5);
            BOOST_TEST(relative_error(found.norm, truth.norm) < 1e-5);
            for (std::int64_t i = 0; i < samples.size(); ++i) {
                BOOST_TEST(relative_error(found.features[i], alone.features[i]) < 1e-5, kind << " sample " << i);
                BOOST_TEST(relative_error(found.features[i], truth.features[i]) < 1e-5, kind << " sample " << i);
            }
        }
    }
}

BOOST_FIXTURE_TEST_CASE(norms_are_those_of_the_whole_gradient, Fixture) {
    const auto whole = gradients();
    for (const auto kind : sketch_kinds)
        BOOST_TEST(relative_error(rows(twice, kind, samples, all_at_once).norm, whole.norm(2, {1})) < 1e-12);
}

BOOST_FIXTURE_TEST_CASE(tokens_behind_the_last_label_change_nothing, Fixture) {
    auto longer = samples;
    const auto first = longer.offsets[2];
    for (auto p = first + 50; p < longer.offsets[3]; ++p) longer.label_mask[static_cast<std::size_t>(p)] = 0;
    longer.label_mask[static_cast<std::size_t>(first + 49)] = 1;
    BOOST_TEST(influence::used_tokens(longer, 2) == 49);
    for (const auto kind : sketch_kinds) {
        const auto whole = rows(tiny.decoder(), kind, only(longer, 2, 70), one_by_one);
        const auto cut = rows(tiny.decoder(), kind, only(longer, 2, 50), one_by_one);
        BOOST_TEST(same_bits(whole.loss, cut.loss));
        BOOST_TEST(same_bits(whole.norm, cut.norm));
        BOOST_TEST(same_bits(whole.features, cut.features));
    }
}

BOOST_AUTO_TEST_CASE(used_tokens_end_at_the_last_predictor) {
    const data::Samples samples{{1, 2, 3, 4, 5, 6, 7, 8}, {1, 0, 1, 0, 1, 0, 0, 1}, {0, 4, 4, 5, 7, 8}};
    BOOST_TEST(influence::used_tokens(samples, 0) == 2);
    for (const std::int64_t without_label : {1, 2, 3, 4})
        BOOST_TEST(influence::used_tokens(samples, without_label) == 0);
}

// Mean, not sum: the gradient with labels at two tokens is half the sum of those with each alone.
BOOST_FIXTURE_TEST_CASE(a_gradient_is_the_mean_over_label_tokens, Fixture) {
    const auto labelled = [&](std::vector<std::size_t> at) {
        auto one = only(samples, 0, 9);
        std::fill(one.label_mask.begin(), one.label_mask.end(), std::uint8_t{0});
        for (const auto p : at) one.label_mask[p] = 1;
        return rows(twice, SketchKind::none, one, one_by_one);
    };
    const auto a = labelled({3}), b = labelled({8}), both = labelled({3, 8});
    BOOST_TEST(relative_error(both.loss, (a.loss + b.loss) / 2) < 1e-13);
    BOOST_TEST(relative_error(both.features, (a.features + b.features) / 2) < 1e-12);
}

BOOST_FIXTURE_TEST_CASE(products_and_weighted_sums_are_those_of_the_gradients, Fixture) {
    const auto whole = gradients();
    std::vector<Tensor> directions, flat;
    for (const auto& layer : chosen.layers()) {
        directions.push_back(normal({2, layer.outputs, layer.inputs}, 50 + directions.size()));
        flat.push_back(directions.back().view({2, -1}));
    }
    const auto scale = at::tensor({1.0, -2.0, 0.5, 0.0, 3.0, 0.25, 1.0}, in_double);
    for (const std::int64_t batch_tokens : {one_by_one, all_at_once}) {
        const auto found = influence::gradient_products(twice, chosen, directions, samples, batch_tokens);
        BOOST_TEST(relative_error(found.features, at::mm(whole, at::cat(flat, 1).t())) < 1e-12);
        BOOST_TEST(relative_error(found.norm, whole.norm(2, {1})) < 1e-12);
        std::vector<Tensor> sums, flat_sums;
        for (const auto& layer : chosen.layers()) sums.push_back(at::zeros({layer.outputs, layer.inputs}, in_double));
        influence::add_weighted_gradients(twice, chosen, samples, scale, batch_tokens, sums);
        for (const auto& sum : sums) flat_sums.push_back(sum.view({-1}));
        BOOST_TEST(relative_error(at::cat(flat_sums), at::mv(whole.t(), scale)) < 1e-12);
    }
}

BOOST_FIXTURE_TEST_CASE(norms_alone_need_no_direction, Fixture) {
    std::vector<Tensor> none;
    for (const auto& layer : chosen.layers()) none.push_back(at::empty({0, layer.outputs, layer.inputs}, in_double));
    const auto found = influence::gradient_products(twice, chosen, none, samples, all_at_once);
    BOOST_TEST((found.features.sizes() == at::IntArrayRef{samples.size(), 0}));
    BOOST_TEST(relative_error(found.norm, gradients().norm(2, {1})) < 1e-12);
}

BOOST_FIXTURE_TEST_CASE(a_sample_without_finite_numbers_shows_and_leaves_the_others_alone, Fixture) {
    const auto truth = rows(tiny.decoder(), SketchKind::kronecker, samples, all_at_once);
    auto sick = tiny.in_double().to(torch::kCPU, torch::kFloat32);
    const auto token = samples.tokens[static_cast<std::size_t>(samples.offsets[2])];
    sick.embedding().select(0, token).fill_(std::numeric_limits<float>::quiet_NaN());
    const auto found = rows(sick, SketchKind::kronecker, samples, all_at_once);
    std::int64_t healthy = 0;
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        const auto first = samples.tokens.begin() + samples.offsets[static_cast<std::size_t>(i)];
        const bool meets = std::find(first, first + influence::used_tokens(samples, i), token) !=
                           first + influence::used_tokens(samples, i);
        BOOST_TEST(std::isnan(found.norm[i].item<double>()) == meets);
        BOOST_TEST(std::isnan(found.loss[i].item<double>()) <= meets);
        BOOST_TEST(found.features[i].isnan().any().item<bool>() == meets);
        if (meets) continue;
        ++healthy;
        BOOST_TEST(relative_error(found.features[i], truth.features[i]) < 1e-5);
    }
    BOOST_TEST(healthy >= 2);
}

BOOST_AUTO_TEST_SUITE_END()
