// The fused float32 kernels against the same steps as tensor operations in float64, and those against finite
// differences.

#include <boost/test/unit_test.hpp>
#include <limits>

#include "idistill/model/kernels.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::cross_entropy_;

namespace {

constexpr double epsilon = 1e-5;
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

Tensor narrow32(const Tensor& x) { return x.to(torch::kFloat32); }
/// What a float32 tensor holds, in double: both paths then start from the same numbers.
Tensor rounded(const Tensor& x) { return narrow32(x).to(torch::kFloat64); }
Tensor uniform_rows(const std::vector<double>& values) {
    return at::tensor(values, at::TensorOptions().dtype(torch::kFloat64)).view({1, -1});
}

/// Calls body(rows, width) for one and several rows, widths around the vector lengths of processors and odd ones.
template <class Body>
void for_shapes(Body&& body) {
    for (const std::int64_t rows : {1, 5})
        for (const std::int64_t width : {1, 2, 3, 7, 8, 15, 16, 17, 33, 100, 577}) body(rows, width);
}

void check_close(const Tensor& fused, const Tensor& plain, double tolerance = 2e-6) {
    BOOST_TEST(fused.scalar_type() == torch::kFloat32);
    BOOST_TEST(plain.scalar_type() == torch::kFloat64);
    BOOST_TEST(relative_error(fused, plain) < tolerance);
}

/// Directional derivative of f at x along v, central.
template <class Function>
Tensor difference(Function&& f, const Tensor& x, const Tensor& v) {
    constexpr double h = 1e-5;
    return (f(x + h * v) - f(x - h * v)) / (2 * h);
}

double product_of(const Tensor& a, const Tensor& b) { return (a * b).sum().item<double>(); }

Tensor rms_norm_gradient(const Tensor& start, const Tensor& x, const Tensor& weight, const Tensor& gradient) {
    auto result = start.clone();
    model::rms_norm_backward_(result, x, weight, epsilon, gradient);
    return result;
}
Tensor rms_norm_tangent(const Tensor& x, const Tensor& weight, const Tensor& tangent_x, const Tensor& tangent_weight) {
    auto result = at::empty_like(x);
    model::rms_norm_tangent(result, x, weight, epsilon, tangent_x, tangent_weight);
    return result;
}
Tensor swiglu_tangent(const Tensor& gate_up, const Tensor& tangent) {
    auto result = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
    model::swiglu_tangent(result, gate_up, tangent);
    return result;
}
Tensor softmax(const Tensor& scores, std::int64_t group, const std::vector<std::int64_t>& valid, double scale) {
    auto result = scores.clone();
    model::causal_softmax_(result, group, valid.data(), scale);
    return result;
}
Tensor softmax_jacobian(const Tensor& values, const Tensor& probabilities, double scale) {
    auto result = values.clone();
    model::softmax_jacobian_(result, probabilities, scale);
    return result;
}
struct Entropy {
    Tensor loss, gradient;
};
Entropy cross_entropy(const Tensor& logits, const Tensor& labels, const Tensor& scale) {
    auto gradient = logits.clone();
    auto loss = cross_entropy_(gradient, labels, scale);
    return {loss, gradient};
}
Tensor labels_below(std::int64_t width, std::int64_t rows) {
    return at::arange(rows, at::TensorOptions().dtype(torch::kInt64)).mul_(7).remainder_(width);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_kernels)

BOOST_AUTO_TEST_CASE(fused_norms_equal_the_plain_ones) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto x = rounded(normal({rows, width}, 1)), weight = rounded(normal({width}, 2));
        const auto a = rounded(normal({rows, width}, 3)), b = rounded(normal({width}, 4));
        check_close(model::rms_norm(narrow32(x), narrow32(weight), epsilon), model::rms_norm(x, weight, epsilon));
        check_close(rms_norm_gradient(narrow32(a), narrow32(x), narrow32(weight), narrow32(a)),
                    rms_norm_gradient(a, x, weight, a));
        check_close(rms_norm_tangent(narrow32(x), narrow32(weight), narrow32(a), narrow32(b)),
                    rms_norm_tangent(x, weight, a, b));
        if (width > 1)  // the tangent in one dimension is rounding alone
            check_close(rms_norm_tangent(narrow32(x), narrow32(weight), narrow32(a), {}),
                        rms_norm_tangent(x, weight, a, {}));
    });
}

BOOST_AUTO_TEST_CASE(fused_activations_equal_the_plain_ones) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto x = rounded(4 * normal({rows, 2 * width}, 1)), t = rounded(normal({rows, 2 * width}, 2));
        const auto g = rounded(normal({rows, width}, 3));
        check_close(model::swiglu(narrow32(x)), model::swiglu(x));
        check_close(model::swiglu_backward(narrow32(x), narrow32(g)), model::swiglu_backward(x, g));
        check_close(swiglu_tangent(narrow32(x), narrow32(t)), swiglu_tangent(x, t));
    });
}

BOOST_AUTO_TEST_CASE(fused_softmax_equals_the_plain_one) {
    for_shapes([](std::int64_t queries, std::int64_t width) {
        for (const std::int64_t group : {1, 3}) {
            std::vector<std::int64_t> valid;
            for (std::int64_t i = 0; i < queries; ++i)
                valid.push_back(std::max<std::int64_t>(1, width - 3 * (queries - 1 - i)));
            const auto scores = rounded(5 * normal({2, queries * group, width}, 1));
            const auto fused = softmax(narrow32(scores), group, valid, 0.37);
            check_close(fused, softmax(scores, group, valid, 0.37));
            for (std::int64_t row = 0; row < queries * group; ++row) {
                const auto keys = valid[static_cast<std::size_t>(row / group)];
                BOOST_TEST(fused.select(1, row).narrow(1, keys, width - keys).count_nonzero().item<std::int64_t>() ==
                           0);
            }
            const auto p = rounded(fused), values = rounded(normal({2, queries * group, width}, 2));
            if (width > 1)
                check_close(softmax_jacobian(narrow32(values), narrow32(p), 0.37), softmax_jacobian(values, p, 0.37),
                            1e-5);
        }
    });
}

BOOST_AUTO_TEST_CASE(fused_cross_entropy_equals_the_plain_one) {
    for_shapes([](std::int64_t rows, std::int64_t width) {
        const auto logits = rounded(6 * normal({rows, width}, 1) + 100), scale = rounded(normal({rows}, 2));
        const auto labels = labels_below(width, rows);
        const auto fused = cross_entropy(narrow32(logits), labels, narrow32(scale));
        const auto plain = cross_entropy(logits, labels, scale);
        if (width == 1)
            BOOST_TEST(fused.loss.abs().max().item<double>() == 0.0);
        else
            check_close(fused.loss, plain.loss), check_close(fused.gradient, plain.gradient);
    });
}

BOOST_AUTO_TEST_CASE(rotation_turns_pairs_half_a_head_apart_and_leaves_other_columns_alone) {
    constexpr std::int64_t rows = 5, heads = 3;
    for (const std::int64_t head_dim : {2, 6, 10, 64}) {
        const auto half = head_dim / 2;
        const auto angle = normal({rows, half}, 1);
        const auto wide = rounded(normal({rows, heads * head_dim + 7}, 2));
        auto expected = wide.clone();
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t column = 0; column < heads * head_dim; ++column) {
                const auto i = column % head_dim, pair = i % half;
                const double c = std::cos(angle[r][pair].item<double>()), s = std::sin(angle[r][pair].item<double>());
                const double own = wide[r][3 + column].item<double>();
                const double other = wide[r][3 + column + (i < half ? half : -half)].item<double>();
                expected[r][3 + column] = own * c + (i < half ? -other : other) * s;
            }
        for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
            const double tolerance = dtype == torch::kFloat32 ? 1e-6 : 1e-14;
            const auto found = wide.to(dtype, false, true);
            const auto columns = found.narrow(1, 3, heads * head_dim);
            model::rotate_(columns, head_dim, angle.cos().to(dtype), angle.sin().to(dtype));
            BOOST_TEST(relative_error(found, expected) < tolerance);
            BOOST_TEST(at::equal(found.narrow(1, 0, 3).to(torch::kFloat64), wide.narrow(1, 0, 3)));
            model::rotate_(columns, head_dim, angle.cos().to(dtype), angle.sin().to(dtype), false);
            BOOST_TEST(relative_error(found, wide) < tolerance);  // the transpose is the inverse
        }
    }
}

// softmax([0, x]) holds exp(x) as the ratio of its two entries.
BOOST_AUTO_TEST_CASE(exponential_is_accurate_to_some_units_in_the_last_place) {
    constexpr std::int64_t steps = 87001;
    const auto x = at::linspace(-87.0, 0.0, steps, at::TensorOptions().dtype(torch::kFloat32));
    const auto scores = at::stack({at::zeros_like(x), x}, 1).view({1, steps, 2}).contiguous();
    const auto p = softmax(scores, 1, std::vector<std::int64_t>(steps, 2), 1.0).to(torch::kFloat64);
    const auto ratio = p.select(2, 1) / p.select(2, 0);
    const auto truth = x.to(torch::kFloat64).exp();
    BOOST_TEST(((ratio - truth) / truth).abs().max().item<double>() < 5e-7);

    const auto gate = at::linspace(-87.0, 87.0, steps, at::TensorOptions().dtype(torch::kFloat32)).view({-1, 1});
    const auto silu = model::swiglu(at::cat({gate, at::ones_like(gate)}, 1)).to(torch::kFloat64);
    const auto g = gate.to(torch::kFloat64);
    const auto right = g / (1 + (-g).exp());
    BOOST_TEST((((silu - right) / right).masked_fill(g.eq(0), 0)).abs().max().item<double>() < 7e-7);
}

BOOST_AUTO_TEST_CASE(extreme_gates_saturate) {
    const auto gate = uniform_rows({-1e38, -1e30, -1e5, -200, -104, -89, -88.5, -88, -87.4, 87.4, 88, 88.5, 89, 104,
                                    1e5, 1e30, 1e38, 0})
                          .t();
    const auto x = rounded(at::cat({gate, at::full_like(gate, 0.5)}, 1)), t = at::full_like(x, 0.25),
               g = at::full_like(gate, 2.0);
    const auto absolute = [](const Tensor& fused, const Tensor& plain) {
        const auto error = (fused.to(torch::kFloat64) - plain).abs();
        return (error / (plain.abs() + 1e-30)).max().item<double>();
    };
    BOOST_TEST(absolute(model::swiglu(narrow32(x)), model::swiglu(x)) < 1e-6);
    BOOST_TEST(absolute(model::swiglu_backward(narrow32(x), narrow32(g)), model::swiglu_backward(x, g)) < 1e-6);
    BOOST_TEST(absolute(swiglu_tangent(narrow32(x), narrow32(t)), swiglu_tangent(x, t)) < 1e-6);
}

BOOST_AUTO_TEST_CASE(extreme_scores_and_logits_stay_right) {
    constexpr double infinite = std::numeric_limits<double>::infinity();
    const std::vector<std::vector<double>> cases{{1e30, -1e30, 0, 3},         {-1e30, -1e30, -1e30, -1e30},
                                                 {-infinite, 2, 1, -1e30},    {300, 299, 212, 0},
                                                 {1e4, 1e4 - 1, 1e4 - 88, 0}, {-500, -501, -1e38, -490}};
    for (const auto& values : cases) {
        const auto scores = rounded(uniform_rows(values));
        const auto plain = softmax(scores.view({1, 1, 4}), 1, {4}, 1.0);
        BOOST_TEST((softmax(narrow32(scores.view({1, 1, 4})), 1, {4}, 1.0) - plain).abs().max().item<double>() < 1e-6);
        BOOST_TEST(std::abs(plain.sum().item<double>() - 1.0) < 1e-12);

        const auto label = at::tensor({std::int64_t{1}}),
                   one = at::ones({1}, at::TensorOptions().dtype(torch::kFloat64));
        const auto right = cross_entropy(scores, label, one),
                   fused = cross_entropy(narrow32(scores), label, narrow32(one));
        BOOST_TEST(relative_error(fused.loss, right.loss) < 1e-6);
        BOOST_TEST((fused.gradient - right.gradient).abs().max().item<double>() < 1e-6);
    }
    for (const double size : {1e-12, 1e-3, 1e3, 1e15}) {
        const auto x = rounded(size * normal({2, 9}, 1)), weight = rounded(normal({9}, 2));
        check_close(model::rms_norm(narrow32(x), narrow32(weight), epsilon), model::rms_norm(x, weight, epsilon));
    }
}

// NaN in one row must show in that row and in no other.
BOOST_AUTO_TEST_CASE(not_a_number_is_neither_hidden_nor_spread) {
    const auto one_bad_row = [](const Tensor& result) {
        const auto bad = result.isnan().any(-1).view({-1});
        return bad.size(0) == 3 && !bad[0].item<bool>() && bad[1].item<bool>() && !bad[2].item<bool>();
    };
    for (const std::int64_t column : {0, 7, 16, 18}) {
        const auto good = narrow32(normal({3, 19}, 1));
        auto bad = good.clone();
        bad[1][column] = not_a_number;
        const auto weight = at::ones({19}, good.options());
        BOOST_TEST(one_bad_row(model::rms_norm(bad, weight, epsilon)));
        BOOST_TEST(one_bad_row(rms_norm_gradient(good, bad, weight, good)));
        BOOST_TEST(one_bad_row(rms_norm_gradient(good, good, weight, bad)));
        BOOST_TEST(one_bad_row(rms_norm_tangent(bad, weight, good, {})));
        BOOST_TEST(one_bad_row(rms_norm_tangent(good, weight, bad, {})));
        const auto gates = at::cat({bad, good}, 1), ups = at::cat({good, bad}, 1), both = at::cat({good, good}, 1);
        for (const auto& x : {gates, ups}) {
            BOOST_TEST(one_bad_row(model::swiglu(x)));
            BOOST_TEST(one_bad_row(model::swiglu_backward(x, good)));
            BOOST_TEST(one_bad_row(swiglu_tangent(x, both)));
            BOOST_TEST(one_bad_row(swiglu_tangent(both, x)));
        }
        const auto p = softmax(bad.view({1, 3, 19}), 1, {19, 19, 19}, 1.0);
        BOOST_TEST(one_bad_row(p));
        BOOST_TEST(p.select(1, 1).isnan().all().item<bool>());
        BOOST_TEST(
            !softmax(bad.view({1, 3, 19}), 1, {std::max<std::int64_t>(1, column), column + (column == 0), 4}, 1.0)
                 .select(1, column == 0 ? 2 : 1)
                 .isnan()
                 .any()
                 .item<bool>());  // behind the last key it may see, a query sees nothing
        BOOST_TEST(one_bad_row(softmax_jacobian(bad, good, 1.0)));
        const auto entropy = cross_entropy(bad, labels_below(19, 3), at::ones({3}, good.options()));
        BOOST_TEST(one_bad_row(entropy.gradient));
        BOOST_TEST(one_bad_row(entropy.loss.unsqueeze(1)));
    }
}

BOOST_AUTO_TEST_CASE(gradients_and_tangents_are_finite_differences) {
    constexpr double tolerance = 1e-8;
    for (const std::int64_t width : {2, 7}) {
        const auto x = normal({4, width}, 1), v = normal({4, width}, 2), g = normal({4, width}, 3),
                   start = normal({4, width}, 4);
        const auto weight = normal({width}, 5), w = normal({width}, 6);
        const auto norm_x = [&](const Tensor& at) { return model::rms_norm(at, weight, epsilon); };
        const auto norm_weight = [&](const Tensor& at) { return model::rms_norm(x, at, epsilon); };
        const auto along_x = difference(norm_x, x, v);
        BOOST_TEST(relative_error(rms_norm_tangent(x, weight, v, {}), along_x) < tolerance);
        BOOST_TEST(relative_error(rms_norm_tangent(x, weight, v, w), along_x + difference(norm_weight, weight, w)) <
                   tolerance);
        BOOST_TEST(std::abs(product_of(rms_norm_gradient(start, x, weight, g) - start, v) - product_of(g, along_x)) <
                   tolerance);

        const auto gate_up = 2 * normal({4, 2 * width}, 7), t = normal({4, 2 * width}, 8);
        const auto along = difference([](const Tensor& at) { return model::swiglu(at); }, gate_up, t);
        BOOST_TEST(relative_error(swiglu_tangent(gate_up, t), along) < tolerance);
        BOOST_TEST(std::abs(product_of(model::swiglu_backward(gate_up, g), t) - product_of(g, along)) < tolerance);

        const std::vector<std::int64_t> valid{1, width};
        const auto scores = normal({1, 4, width}, 9), s = normal({1, 4, width}, 10), h = normal({1, 4, width}, 11);
        const auto p = softmax(scores, 2, valid, 0.7);
        const auto slope = difference([&](const Tensor& at) { return softmax(at, 2, valid, 0.7); }, scores, s);
        BOOST_TEST(relative_error(softmax_jacobian(s, p, 0.7), slope) < tolerance);
        BOOST_TEST(std::abs(product_of(softmax_jacobian(h, p, 0.7), s) - product_of(h, slope)) < tolerance);

        const auto labels = labels_below(width, 4), scale = normal({4}, 12);
        const auto entropy = cross_entropy(x, labels, scale);
        const auto loss_slope =
            difference([&](const Tensor& at) { return cross_entropy(at, labels, scale).loss; }, x, v);
        BOOST_TEST(relative_error((entropy.gradient * v).sum(1), scale * loss_slope) < tolerance);
        BOOST_TEST(relative_error(entropy.loss, -at::log_softmax(x, 1).gather(1, labels.unsqueeze(1)).squeeze(1)) <
                   1e-12);
    }
}

BOOST_AUTO_TEST_SUITE_END()
