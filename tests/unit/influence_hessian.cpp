// Exact Hessian-vector products against differences of the gradient pass, and their decomposition of low rank against a
// dense one.

#include <boost/test/unit_test.hpp>

#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::ChosenLayers;
using model::Decoder;

namespace {

constexpr std::int64_t one_by_one = 1, all_at_once = 1'000'000;
const std::vector<std::int64_t> lengths{9, 2, 70, 5, 14};
const at::TensorOptions in_double = at::TensorOptions().dtype(torch::kFloat64);

/// A target loss over the layers that a regex chooses.
struct Problem {
    Problem(const model::ModelConfig& config, const std::string& regex)
        : tiny(config), twice(tiny.in_double()), chosen(config, model::chosen_layers(config, regex)) {}

    TinyModel tiny;
    Decoder twice;
    ChosenLayers chosen;
    data::Samples samples = random_samples(tiny.config().vocabulary, lengths, 31);
    Tensor scale = at::tensor({0.3, -1.0, 2.0, 0.0, 0.7}, in_double);

    [[nodiscard]] std::vector<Tensor> zeros(const at::TensorOptions& options = in_double) const {
        std::vector<Tensor> layers;
        for (const auto& layer : chosen.layers()) layers.push_back(at::zeros({layer.outputs, layer.inputs}, options));
        return layers;
    }
    [[nodiscard]] static Tensor flat(const std::vector<Tensor>& layers) {
        std::vector<Tensor> parts;
        for (const auto& layer : layers) parts.push_back(layer.view({-1}));
        return at::cat(parts);
    }
    [[nodiscard]] std::vector<Tensor> split(const Tensor& vector) const {
        std::vector<Tensor> layers;
        std::int64_t first = 0;
        for (const auto& layer : chosen.layers()) {
            const auto size = layer.outputs * layer.inputs;
            layers.push_back(vector.narrow(0, first, size).view({layer.outputs, layer.inputs}));
            first += size;
        }
        return layers;
    }
    [[nodiscard]] std::int64_t size() const { return flat(zeros()).numel(); }

    [[nodiscard]] Tensor gradient(const Decoder& decoder) const {
        auto sums = zeros(decoder.options());
        influence::add_weighted_gradients(decoder, chosen, samples, scale, all_at_once, sums);
        return flat(sums);
    }
    [[nodiscard]] Tensor hessian_times(const Tensor& v, const Decoder& decoder, std::int64_t batch_tokens) const {
        auto sums = zeros(decoder.options());
        influence::add_hessian_products(decoder, chosen, samples, scale, split(v.to(decoder.options())), batch_tokens,
                                        sums);
        return flat(sums);
    }
    [[nodiscard]] Tensor hessian_times(const Tensor& v) const { return hessian_times(v, twice, all_at_once); }

    /// Central difference of the gradients; its error falls with the fourth power of the step.
    [[nodiscard]] Tensor difference(const Tensor& v) const {
        const auto moved = [&](double step) {
            auto decoder = tiny.in_double();
            const auto parts = split(v);
            for (std::size_t i = 0; i < parts.size(); ++i) weight_of(decoder, chosen.layers()[i]).add_(parts[i], step);
            return gradient(decoder);
        };
        const auto central = [&](double step) { return (moved(step) - moved(-step)) / (2.0 * step); };
        const double step = 2e-3 / v.norm().item<double>();
        return (4.0 * central(step) - central(2.0 * step)) / 3.0;
    }
    [[nodiscard]] Tensor dense() const {
        const auto identity = at::eye(size(), in_double);
        auto hessian = at::empty({size(), size()}, in_double);
        for (std::int64_t i = 0; i < size(); ++i) hessian[i].copy_(hessian_times(identity[i]));
        return hessian;
    }
};

/// Every entry of `found` is that of `expected`, relative to the largest.
bool near(const std::vector<double>& found, const Tensor& expected, double tolerance) {
    const auto value = at::tensor(found, in_double).narrow(0, 0, expected.size(0));
    return (value - expected).abs().max().item<double>() < tolerance * expected.abs().max().item<double>();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_hessian)

BOOST_AUTO_TEST_CASE(products_are_differences_of_gradients) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        for (const auto* regex :
             {".", "down_proj", "layers.2.*(q_proj|up_proj)", "layers.1.*v_proj|layers.2.*o_proj"}) {
            const Problem problem(config, regex);
            const auto v = normal({problem.size()}, 5);
            BOOST_TEST(relative_error(problem.hessian_times(v), problem.difference(v)) < 1e-7,
                       config.family << " " << regex);
        }
    }
}

BOOST_AUTO_TEST_CASE(the_hessian_is_symmetric) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const Problem problem(config, ".");
        const auto u = normal({problem.size()}, 6), v = normal({problem.size()}, 7);
        const auto hu = problem.hessian_times(u), hv = problem.hessian_times(v);
        const double scale = u.norm().item<double>() * hv.norm().item<double>();
        BOOST_TEST(std::abs((u.dot(hv) - v.dot(hu)).item<double>()) < 1e-12 * scale);
    }
}

BOOST_AUTO_TEST_CASE(products_do_not_depend_on_micro_batch_or_precision) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const Problem problem(config, ".");
        const auto v = normal({problem.size()}, 8);
        const auto truth = problem.hessian_times(v);
        for (const std::int64_t batch_tokens : {one_by_one, std::int64_t{30}, all_at_once}) {
            BOOST_TEST(relative_error(problem.hessian_times(v, problem.twice, batch_tokens), truth) < 1e-12);
            BOOST_TEST(relative_error(problem.hessian_times(v, problem.tiny.decoder(), batch_tokens), truth) < 5e-5);
        }
    }
}

// Long enough for several chunks of queries; the last block computes its predictors alone.
BOOST_AUTO_TEST_CASE(products_of_long_samples_are_differences_too) {
    Problem problem(tiny_llama(), "layers.[12].*");
    problem.samples = random_samples(problem.tiny.config().vocabulary, {150, 65, 64, 3, 131}, 3);
    const auto v = normal({problem.size()}, 5);
    BOOST_TEST(relative_error(problem.hessian_times(v), problem.difference(v)) < 1e-7);
}

BOOST_AUTO_TEST_CASE(ritz_pairs_of_all_dimensions_are_the_eigenpairs) {
    const auto values = at::tensor({-9.0, 4.0, 3.0, -2.0, 1.0, 0.5, 0.1}, in_double);
    const auto basis = std::get<0>(at::linalg_qr(normal({7, 7}, 1)));
    const auto matrix = at::mm(basis * values, basis.t());
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
        const double tolerance = type == torch::kFloat64 ? 1e-12 : 5e-6;
        const auto pairs = influence::lanczos([&](std::int64_t, const Tensor& v) { return at::mv(matrix.to(type), v); },
                                              normal({7}, 2).to(type), 7);
        BOOST_TEST(near(pairs.value, values, tolerance));
        const auto vectors = pairs.vector.to(torch::kFloat64);
        BOOST_TEST(relative_error(at::mm(vectors, vectors.t()), at::eye(7, in_double)) < tolerance);
        BOOST_TEST(relative_error(at::mm(vectors.t() * at::tensor(pairs.value, in_double), vectors), matrix) <
                   tolerance);
    }
}

BOOST_AUTO_TEST_CASE(an_invariant_space_ends_the_iteration) {
    const auto axes = std::get<0>(at::linalg_qr(normal({40, 2}, 1)));
    const auto matrix = at::mm(axes * at::tensor({5.0, -3.0}, in_double), axes.t());
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
        std::int64_t products = 0;
        const auto pairs = influence::lanczos(
            [&](std::int64_t step, const Tensor& v) {
                BOOST_TEST(step == products++);
                return at::mv(matrix.to(type), v);
            },
            normal({40}, 2).to(type), 10);
        BOOST_TEST(products == 3);  // the two axes, and what of the start is in neither
        BOOST_TEST(near(pairs.value, at::tensor({5.0, -3.0, 0.0, 0.0, 0.0}, in_double), 1e-5));
        BOOST_TEST(pairs.vector.narrow(0, 3, 7).abs().max().item<double>() == 0.0);
        const auto nothing = influence::lanczos([](std::int64_t, const Tensor& v) { return at::zeros_like(v); },
                                                normal({40}, 2).to(type), 3);
        BOOST_TEST(nothing.value[0] == 0.0);
    }
    const auto none = influence::lanczos([](std::int64_t, const Tensor& v) { return v; }, at::zeros({4}), 2);
    BOOST_TEST(none.vector.abs().max().item<double>() == 0.0);
}

BOOST_AUTO_TEST_CASE(leading_ritz_pairs_of_a_model_are_those_of_its_dense_hessian) {
    const Problem problem(tiny_qwen3(), "layers.(1|2).mlp.down_proj");
    const auto hessian = problem.dense();
    BOOST_TEST(relative_error(hessian, hessian.t()) < 1e-13);
    const auto [values, vectors] = at::linalg_eigh(hessian);
    const auto order = at::argsort(values.abs(), 0, true);
    const auto largest = values.index_select(0, order.narrow(0, 0, 6));
    BOOST_TEST(largest.min().item<double>() < 0.0);  // the loss is not convex, and the sample scales have both signs
    const auto product = [&](std::int64_t, const Tensor& v) { return problem.hessian_times(v); };
    const auto pairs = influence::lanczos(product, normal({problem.size()}, 3), 80);
    BOOST_TEST(near(pairs.value, largest, 1e-6));
    for (std::int64_t j = 0; j < 6; ++j) {
        const double cosine = pairs.vector[j].dot(vectors.select(1, order[j].item<std::int64_t>())).item<double>();
        BOOST_TEST(std::abs(std::abs(cosine) - 1.0) < 1e-6);
    }
}

BOOST_AUTO_TEST_SUITE_END()
