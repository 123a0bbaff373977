// Random sketches: their structure as linear maps, and inner products kept on average.

#include <boost/test/unit_test.hpp>
#include <numeric>
#include <set>

#include "idistill/base/error.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "sketch_kinds.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::LayerTap;
using model::LinearLayer;

namespace {

const at::TensorOptions in_double = at::TensorOptions().dtype(torch::kFloat64);
const std::vector<LinearLayer> two_layers{{"model.layers.0.mlp.up_proj", 0, 6, 5},
                                          {"model.layers.0.mlp.down_proj", 0, 4, 6}};

/// Two samples of 3 and 4 rows in both layers.
struct TwoSamples {
    std::vector<std::int64_t> offsets{0, 3, 7};
    std::vector<Tensor> inputs, outputs;

    TwoSamples() {
        for (std::size_t l = 0; l < two_layers.size(); ++l) {
            inputs.push_back(normal({7, two_layers[l].inputs}, 10 + l) + 0.5);
            outputs.push_back(normal({7, two_layers[l].outputs}, 20 + l) + 0.5);
        }
    }
    [[nodiscard]] LayerTap tap(std::size_t layer) const { return {layer, inputs[layer], outputs[layer], offsets}; }
    /// Gradient of sample i over both layers, (P).
    [[nodiscard]] Tensor gradient(std::size_t i) const {
        std::vector<Tensor> parts;
        for (std::size_t l = 0; l < two_layers.size(); ++l) parts.push_back(layer_gradient(l, i).view({-1}));
        return at::cat(parts);
    }
    [[nodiscard]] Tensor layer_gradient(std::size_t l, std::size_t i) const {
        auto sum = at::zeros({two_layers[l].outputs, two_layers[l].inputs}, in_double);
        for (auto r = offsets[i]; r < offsets[i + 1]; ++r) sum += at::outer(outputs[l][r], inputs[l][r]);
        return sum;
    }
    [[nodiscard]] Tensor sketches(const influence::GradientSketch& sketch) const {
        auto result = at::zeros({2, sketch.width()}, in_double);
        for (std::size_t l = two_layers.size(); l-- > 0;) sketch.accumulate(tap(l), result);
        return result;
    }
};

/// The sketch as a matrix (k x outputs x inputs) on one layer: what it makes of gradients with a single one.
Tensor matrix_of(const influence::GradientSketch& sketch, std::size_t layer, const LinearLayer& shape) {
    const auto entries = shape.outputs * shape.inputs;
    std::vector<std::int64_t> offsets;
    for (std::int64_t e = 0; e <= entries; ++e) offsets.push_back(e);
    const auto index = at::arange(entries);
    const auto y = at::eye(shape.outputs, in_double).index_select(0, at::floor_divide(index, shape.inputs));
    const auto x = at::eye(shape.inputs, in_double).index_select(0, index.remainder(shape.inputs));
    auto columns = at::zeros({entries, sketch.width()}, in_double);
    sketch.accumulate({layer, x, y, offsets}, columns);
    return columns.t().contiguous().view({sketch.width(), shape.outputs, shape.inputs});
}

std::unique_ptr<influence::GradientSketch> make(SketchKind kind, std::int64_t width, std::uint64_t seed = 43,
                                                const std::vector<LinearLayer>& layers = two_layers) {
    return influence::make_sketch(kind, layers, width, seed, in_double);
}

double value(const Tensor& x) { return x.item<double>(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_sketch)

BOOST_AUTO_TEST_CASE(sketches_are_linear_in_the_gradient) {
    const TwoSamples samples;
    for (const auto kind : sketch_kinds) {
        const auto sketch = make(kind, 18);
        const auto found = samples.sketches(*sketch);
        BOOST_TEST(sketch->width() == (kind == SketchKind::none ? 54 : 18));
        for (std::size_t i = 0; i < 2; ++i) {
            auto expected = at::zeros({sketch->width()}, in_double);
            for (std::size_t l = 0; l < 2; ++l)
                expected += at::mv(matrix_of(*sketch, l, two_layers[l]).view({sketch->width(), -1}),
                                   samples.layer_gradient(l, i).view({-1}));
            BOOST_TEST(relative_error(found[static_cast<std::int64_t>(i)], expected) < 1e-12, kind);
        }
    }
}

BOOST_AUTO_TEST_CASE(no_sketch_is_the_gradient) {
    const TwoSamples samples;
    const auto found = samples.sketches(*make(SketchKind::none, 0));
    BOOST_TEST(relative_error(found, at::stack({samples.gradient(0), samples.gradient(1)})) < 1e-14);
}

// R g / sqrt(k) with signs R.
BOOST_AUTO_TEST_CASE(rademacher_is_a_matrix_of_signs) {
    const auto sketch = make(SketchKind::rademacher, 200);
    std::vector<Tensor> signs;
    for (std::size_t l = 0; l < 2; ++l)
        signs.push_back(matrix_of(*sketch, l, two_layers[l]).view({200, -1}) * std::sqrt(200.0));
    const auto all = at::cat(signs, 1);
    BOOST_TEST(value((all.abs() - 1).abs().max()) < 1e-12);
    const double count = static_cast<double>(all.numel());
    BOOST_TEST(std::abs(value(all.sum())) < 5 * std::sqrt(count));
    // Columns are not related: products of two have mean 0 and variance 200.
    const auto products = at::mm(all.t(), all).fill_diagonal_(0);
    BOOST_TEST(value(products.abs().max()) < 5 * std::sqrt(200.0));
}

// 8 MiB a gradient: the samples are done in two groups, the signs in three blocks of rows.
BOOST_AUTO_TEST_CASE(rademacher_is_the_same_in_groups_and_blocks) {
    const LinearLayer layer{"large", 0, 1024, 1024};
    const auto sketch = make(SketchKind::rademacher, 18, 43, {layer});
    const auto x = normal({40, layer.inputs}, 1), y = normal({40, layer.outputs}, 2);
    std::vector<std::int64_t> offsets(41);
    std::iota(offsets.begin(), offsets.end(), std::int64_t{0});
    auto together = at::zeros({40, 18}, in_double);
    sketch->accumulate({0, x, y, offsets}, together);
    for (const std::int64_t i : {0, 31, 32, 39}) {
        auto alone = at::zeros({1, 18}, in_double);
        const std::vector<std::int64_t> one{0, 1};
        sketch->accumulate({0, x.narrow(0, i, 1), y.narrow(0, i, 1), one}, alone);
        BOOST_TEST(relative_error(together.narrow(0, i, 1), alone) < 1e-12);
    }
}

// Per layer: k_l distinct rows of sqrt(P/k_l) times the orthonormal Hadamard matrix of order P, columns flipped by
// signs: entries of size 1/sqrt(k_l), and any two rows differ by a Walsh function (-1)^popcount(w & j).
BOOST_AUTO_TEST_CASE(hadamard_takes_distinct_walsh_rows_of_the_flipped_gradient) {
    const std::int64_t width = 21;  // 11 numbers for the first layer, 10 for the second
    const auto sketch = make(SketchKind::hadamard, width);
    std::int64_t first = 0;
    for (std::size_t l = 0; l < 2; ++l) {
        const auto own = l == 0 ? 11 : 10;
        const auto matrix = matrix_of(*sketch, l, two_layers[l]).view({width, -1});
        const auto rows = matrix.narrow(0, first, own) * std::sqrt(static_cast<double>(own));
        BOOST_TEST(value(matrix.abs().sum()) ==
                   value(matrix.narrow(0, first, own).abs().sum()));  // no other layer's numbers
        BOOST_TEST(value((rows.abs() - 1).abs().max()) < 1e-12);
        std::set<std::uint64_t> walsh;
        for (std::int64_t r = 0; r < own; ++r) {
            const auto relative = rows[r] * rows[0];
            for (std::uint64_t w = 0; w < 32; ++w) {
                bool same = true;
                for (std::int64_t j = 0; j < relative.size(0); ++j)
                    same = same && value(relative[j]) *
                                           (std::popcount(w & static_cast<std::uint64_t>(j)) % 2 == 0 ? 1.0 : -1.0) >
                                       0;
                if (same) walsh.insert(w);
            }
        }
        BOOST_TEST(walsh.size() == static_cast<std::size_t>(own));
        first += own;
    }
    const auto whole =
        make(SketchKind::hadamard, 32, 43, {{"layer", 0, 4, 8}});  // as many numbers as entries: an orthogonal matrix
    const auto q = matrix_of(*whole, 0, {"layer", 0, 4, 8}).view({32, 32});
    BOOST_TEST(relative_error(at::mm(q, q.t()), at::eye(32, in_double)) < 1e-12);
}

// L' G R: every number is an outer product of a column of L with one of R.
BOOST_AUTO_TEST_CASE(kronecker_is_a_product_of_two_gaussian_matrices) {
    const auto sketch = make(SketchKind::kronecker, 18);
    for (std::size_t l = 0; l < 2; ++l) {
        const auto all = matrix_of(*sketch, l, two_layers[l]);
        const auto own = all.narrow(0, static_cast<std::int64_t>(l) * 9, 9);
        BOOST_TEST(value(all.square().sum()) == value(own.square().sum()));
        const auto m = own.view({3, 3, two_layers[l].outputs, two_layers[l].inputs});
        const auto left = m.select(1, 0).select(2, 0),
                   right = m.select(0, 0).select(1, 0);  // (a, outputs), (b, inputs)
        const auto expected = left.view({3, 1, -1, 1}) * right.view({1, 3, 1, -1}) / m[0][0][0][0];
        BOOST_TEST(relative_error(m, expected) < 1e-5);  // the numbers are drawn in single precision
    }
}

/// The numbers of one layer of a tensor sketch, back from its spectrum (n x k).
Tensor out_of_spectrum(const Tensor& own) {
    const auto length = own.size(1);
    const auto root = std::sqrt(static_cast<double>(length));
    auto numbers = at::zeros({own.size(0), length / 2 + 1, 2}, own.options());
    for (std::int64_t i = 0; i < length; ++i) {
        const auto place = i == 0 ? 0 : i + 1;  // behind the first frequency's imaginary part
        const bool alone = i == 0 || (length % 2 == 0 && i == length - 1);
        numbers.flatten(1).select(1, place).copy_(own.select(1, i) * (alone ? root : root / std::sqrt(2.0)));
    }
    return at::fft_irfft(at::view_as_complex(numbers), length);
}

// Entry (o, i) goes to one bucket, (h(o) + h'(i)) mod k, with a sign s(o) s'(i), at even and odd lengths.
BOOST_AUTO_TEST_CASE(tensor_is_a_count_sketch_whose_buckets_and_signs_are_sums_and_products) {
    for (const std::int64_t length : {1, 2, 9, 16}) {
        const auto sketch = make(SketchKind::tensor, 2 * length);
        for (std::size_t l = 0; l < 2; ++l) {
            const auto [outputs, inputs] = std::pair(two_layers[l].outputs, two_layers[l].inputs);
            const auto own = matrix_of(*sketch, l, two_layers[l]).view({2 * length, -1}).t();
            const auto found = out_of_spectrum(own.narrow(1, static_cast<std::int64_t>(l) * length, length));
            BOOST_TEST(relative_error(found.abs().sum(1), at::ones({outputs * inputs}, in_double)) < 1e-12);
            const auto [size, bucket] = found.abs().max(1);
            BOOST_TEST(value((size - 1).abs().max()) < 1e-12);
            const auto sign = found.gather(1, bucket.unsqueeze(1)).view({outputs, inputs});
            const auto place = bucket.view({outputs, inputs});
            for (std::int64_t o = 0; o < outputs; ++o)
                for (std::int64_t i = 0; i < inputs; ++i) {
                    const auto sum = place[o][0] + place[0][i] - place[0][0] - place[o][i];
                    BOOST_TEST(sum.item<std::int64_t>() % length == 0);
                    BOOST_TEST(value(sign[o][i] * sign[0][0] * sign[o][0] * sign[0][i]) > 0);
                }
        }
    }
}

// Blocks of 256 rows that cut through samples, in single precision (one pass over the rows) and in double.
BOOST_AUTO_TEST_CASE(tensor_is_the_same_in_blocks_of_rows_and_of_a_whole_matrix) {
    const std::vector<LinearLayer> layer{{"large", 0, 130, 96}};
    const std::vector<std::int64_t> offsets{0, 300, 301, 700};
    const auto x = normal({700, 96}, 1), y = normal({700, 130}, 2);
    const auto sketch = make(SketchKind::tensor, 120, 43, layer);
    auto blocks = at::zeros({3, 120}, in_double), whole = at::zeros({3, 120}, in_double);
    sketch->accumulate({0, x, y, offsets}, blocks);
    for (std::int64_t i = 0; i < 3; ++i) {
        const auto first = offsets[static_cast<std::size_t>(i)],
                   rows = offsets[static_cast<std::size_t>(i) + 1] - first;
        const auto gradient = at::mm(y.narrow(0, first, rows).t(), x.narrow(0, first, rows));
        sketch->accumulate_dense(0, gradient.unsqueeze(0), whole.narrow(0, i, 1));
    }
    BOOST_TEST(relative_error(blocks, whole) < 1e-12);
    const auto narrow = influence::make_sketch(SketchKind::tensor, layer, 120, 43, torch::kFloat32);
    auto rows32 = at::zeros({3, 120}), whole32 = at::zeros({3, 120});
    narrow->accumulate({0, x.to(torch::kFloat32), y.to(torch::kFloat32), offsets}, rows32);
    BOOST_TEST(relative_error(rows32.to(torch::kFloat64), blocks) < 2e-6);
    for (std::int64_t i = 0; i < 3; ++i) {
        const auto first = offsets[static_cast<std::size_t>(i)],
                   rows = offsets[static_cast<std::size_t>(i) + 1] - first;
        const auto gradient = at::mm(y.narrow(0, first, rows).t(), x.narrow(0, first, rows)).to(torch::kFloat32);
        narrow->accumulate_dense(0, gradient.unsqueeze(0), whole32.narrow(0, i, 1));
    }
    BOOST_TEST(relative_error(whole32.to(torch::kFloat64), blocks) < 2e-6);
}

// Single outer products, of which a Kronecker sketch of k numbers errs by about 1 / sqrt(side) where one factor is
// alike: a tensor sketch stays within its variance, (2 + 9) / k of the norms at most, and far below the other.
BOOST_AUTO_TEST_CASE(tensor_errs_as_a_dense_sketch_on_outer_products) {
    const std::vector<LinearLayer> layer{{"large", 0, 48, 64}};
    const std::int64_t length = 144;
    const std::vector<std::int64_t> offsets{0, 1, 2};
    auto x = normal({2, 64}, 3);
    const auto y = normal({2, 48}, 4);
    x[1] = x[0] + 0.2 * x[1];  // as inputs of a layer are: much alike
    const auto norms = (x.square().sum(1) * y.square().sum(1)).sqrt();
    const double exact = value((x[0] * x[1]).sum() * (y[0] * y[1]).sum() / norms.prod());
    const auto mean_square_error = [&](SketchKind kind) {
        double sum = 0.0;
        for (std::uint64_t seed = 0; seed < 400; ++seed) {
            auto sketches = at::zeros({2, length}, in_double);
            make(kind, length, seed, layer)->accumulate({0, x, y, offsets}, sketches);
            sum += std::pow(value((sketches[0] * sketches[1]).sum() / norms.prod()) - exact, 2);
        }
        return sum / 400;
    };
    const double tensor = mean_square_error(SketchKind::tensor);
    BOOST_TEST(tensor < 11.0 / static_cast<double>(length));
    BOOST_TEST(tensor * 3 < mean_square_error(SketchKind::kronecker));
}

BOOST_AUTO_TEST_CASE(inner_products_are_kept_on_average) {
    const TwoSamples samples;
    const auto g = samples.gradient(0), h = samples.gradient(1);
    const auto exact = at::stack({(g * h).sum(), (g * g).sum(), (h * h).sum()});
    for (const auto kind : {SketchKind::tensor, SketchKind::kronecker, SketchKind::hadamard, SketchKind::rademacher}) {
        constexpr std::int64_t seeds = 1500;
        auto found = at::empty({seeds, 3}, in_double);
        for (std::int64_t s = 0; s < seeds; ++s) {
            const auto sketch = samples.sketches(*make(kind, 18, static_cast<std::uint64_t>(s)));
            found[s] = at::stack({(sketch[0] * sketch[1]).sum(), sketch[0].square().sum(), sketch[1].square().sum()});
        }
        const auto standard_error = found.std(0) / std::sqrt(static_cast<double>(seeds));
        const auto deviation = (found.mean(0) - exact).abs() / standard_error;
        BOOST_TEST(value(deviation.max()) < 4.5, kind << ": " << deviation);
        BOOST_TEST(value((standard_error.narrow(0, 1, 2) / exact.narrow(0, 1, 2)).max()) < 0.04,
                   kind);  // so that a wrong scale shows
    }
}

// One layer's numbers do not know of the others, nor of the order in which sketches are made.
BOOST_AUTO_TEST_CASE(numbers_do_not_depend_on_the_order_of_construction) {
    const std::vector<LinearLayer> reversed{two_layers[1], two_layers[0]};
    for (const auto kind : {SketchKind::tensor, SketchKind::kronecker, SketchKind::hadamard, SketchKind::rademacher}) {
        const auto forward = make(kind, 18);
        const auto other = make(kind, 18, 44);
        const auto backward = make(kind, 18, 43, reversed);
        for (std::size_t l = 0; l < 2; ++l) {
            const auto own = kind == SketchKind::rademacher ? 18 : 9;
            const auto from = kind == SketchKind::rademacher ? 0 : 9;
            const auto there = matrix_of(*forward, l, two_layers[l]).narrow(0, l == 0 ? 0 : from, own);
            const auto again = matrix_of(*backward, 1 - l, two_layers[l]).narrow(0, l == 1 ? 0 : from, own);
            BOOST_TEST(same_bits(there, again), kind);
            BOOST_TEST(
                same_bits(there, matrix_of(*make(kind, 18), l, two_layers[l]).narrow(0, l == 0 ? 0 : from, own)));
            BOOST_TEST(!same_bits(there, matrix_of(*other, l, two_layers[l]).narrow(0, l == 0 ? 0 : from, own)));
        }
        const std::vector<LinearLayer> twins{{"a", 0, 4, 4}, {"b", 0, 4, 4}};  // names alone tell them apart
        const auto pair = make(kind, 18, 43, twins);
        BOOST_TEST(!same_bits(matrix_of(*pair, 0, twins[0]).narrow(0, 0, 9),
                              matrix_of(*pair, 1, twins[1]).narrow(0, kind == SketchKind::rademacher ? 0 : 9, 9)));
    }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_made_is_refused) {
    const auto refused = [](SketchKind kind, std::int64_t width, const std::string& found) {
        BOOST_CHECK_EXCEPTION(make(kind, width), Error, [&](const Error& error) {
            return error.code() == ExitCode::usage && error.failure().where == "--sketch-dim" &&
                   error.failure().found == found;
        });
    };
    refused(SketchKind::hadamard, 66, "33, its share of 66");  // 32 entries after padding
    refused(SketchKind::hadamard, 1, "1");
    BOOST_CHECK_NO_THROW(make(SketchKind::hadamard, 64));
    BOOST_CHECK_NO_THROW(make(SketchKind::hadamard, 2));
}

BOOST_AUTO_TEST_SUITE_END()
