// Kernels of several embeddings: leave-one-out, propagation and the choice of bandwidths against the reference.

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <random>

#include "idistill/propagation/kernel_ridge.hpp"
#include "kernel_ridge_reference.hpp"

using namespace idistill;
using namespace idistill::propagation;
using namespace idistill::testing;

namespace {

const std::vector<std::int64_t> widths{4, 2, 3};
const std::vector<std::int32_t> column_task{0, 1};

Tensor random_tensor(std::mt19937& random, std::int64_t rows, std::int64_t columns) {
    auto values = torch::empty({rows, columns}, torch::kFloat32);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < values.numel(); ++i) values.data_ptr<float>()[i] = normal(random);
    return values;
}

/// Three embeddings of very different scales, sources and lengths.
Features random_features(unsigned seed, std::int64_t rows) {
    std::mt19937 random(seed);
    Features features;
    features.embedding = torch::cat({random_tensor(random, rows, 4) + 3.0, 100.0 * random_tensor(random, rows, 2),
                                     0.01 * random_tensor(random, rows, 3)},
                                    1);
    features.log_lengths = random_tensor(random, rows, 2) + 5.0;
    features.source = torch::arange(rows, torch::kInt64).remainder(4);
    return features;
}

/// Each task depends on another embedding.
Tensor make_labels(const Features& features) {
    const auto e = features.embedding;
    return torch::stack({torch::sin(e.select(1, 0)) + 0.5, torch::cos(e.select(1, 4) / 60.0) + 20.0 * e.select(1, 7)},
                        1);
}

Row column_of(const Tensor& values, std::int64_t column) {
    Row out;
    for (std::int64_t i = 0; i < values.size(0); ++i) out.push_back(number(values, i, column));
    return out;
}

Row naive_medians(const Features& features) {
    Row medians;
    std::int64_t first = 0;
    for (const auto width : widths) {
        medians.push_back(naive_median_distance(to_matrix(features.embedding.narrow(1, first, width))));
        first += width;
    }
    return medians;
}

Matrix kernel_of(const SolveResult& result, const Features& a, const Features& b) {
    const auto& s = result.solution;
    return naive_kernel_of(a, b, widths, s.embedding_bandwidths, s.kernel.product, s.length_bandwidth,
                           s.kernel.metadata);
}

/// Calls check(settings) for every way of combining the embeddings.
template <class Check>
void for_each_combination(Check check) {
    for (const bool metadata : {false, true}) {
        for (const bool product : {false, true}) {
            for (const bool choose : {false, true}) {
                BOOST_TEST_CONTEXT("metadata " << metadata << " product " << product << " choose " << choose)
                check(KernelSettings{.bandwidth = {},
                                     .metadata = metadata,
                                     .choose_bandwidth = choose,
                                     .widths = widths,
                                     .product = product});
            }
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_embeddings)

BOOST_AUTO_TEST_CASE(leave_one_out_is_really_leaving_out_for_every_combination) {
    const auto landmarks = random_features(1, 24);
    const auto labels = make_labels(landmarks);
    const auto medians = naive_medians(landmarks);
    for_each_combination([&](const KernelSettings& settings) {
        const auto result = solve(landmarks, labels, column_task, 2, settings, 0.05);
        const auto& solution = result.solution;
        BOOST_TEST_REQUIRE(solution.embedding_bandwidths.size() == 3U);
        const double multiple = solution.embedding_bandwidths[0] / medians[0];
        for (std::size_t i = 0; i < 3; ++i)
            BOOST_TEST(std::fabs(solution.embedding_bandwidths[i] / medians[i] / multiple - 1.0) < 1e-6);
        if (!settings.choose_bandwidth) BOOST_TEST(std::fabs(multiple - 1.0) < 1e-6);
        const auto kernel = kernel_of(result, landmarks, landmarks);
        for (std::int64_t c = 0; c < 2; ++c) {
            const auto left_out = really_leave_out(kernel, column_of(labels, c), 0.05, solution.has_intercept);
            for (std::int64_t i = 0; i < 24; ++i)
                BOOST_TEST(std::fabs(number(result.leave_one_out, i, c) - left_out[static_cast<std::size_t>(i)]) <
                           1e-7);
        }
    });
}

BOOST_AUTO_TEST_CASE(bandwidths_with_the_least_error_are_chosen) {
    const auto landmarks = random_features(2, 30);
    const auto labels = make_labels(landmarks);
    for (const bool product : {false, true}) {
        KernelSettings settings{.bandwidth = {}, .metadata = true, .choose_bandwidth = true};
        settings.widths = widths;
        settings.product = product;
        const auto result = solve(landmarks, labels, column_task, 2, settings, {});
        BOOST_TEST_REQUIRE(result.kernels.size() == 5U);
        double best = result.kernels[0].best.error;
        for (const auto& trial : result.kernels) best = std::min(best, trial.best.error);
        for (const auto& trial : result.kernels)
            if (is_chosen(trial, result.solution)) BOOST_TEST(trial.best.error <= best * (1.0 + 1e-8));
    }
}

BOOST_AUTO_TEST_CASE(sum_or_product_whichever_has_the_least_error) {
    int products = 0;
    for (unsigned seed = 1; seed <= 6; ++seed) {
        const auto landmarks = random_features(seed, 30);
        const auto distances = landmarks.embedding.select(1, 0) * landmarks.embedding.select(1, 4) / 100.0;
        const auto labels = seed % 2 == 0 ? make_labels(landmarks) : torch::stack({distances, distances}, 1);
        for (const bool bandwidths : {false, true}) {
            KernelSettings settings{.bandwidth = {}, .metadata = seed > 3, .choose_bandwidth = bandwidths};
            settings.widths = widths;
            settings.choose_product = true;
            const auto chosen = solve(landmarks, labels, column_task, 2, settings, {});
            BOOST_TEST(chosen.kernels.size() == (bandwidths ? 10U : 2U));
            settings.choose_product = false;
            double least = std::numeric_limits<double>::infinity();
            for (const bool product : {false, true}) {
                settings.product = product;
                const auto own = solve(landmarks, labels, column_task, 2, settings, {});
                for (const auto& trial : own.kernels) least = std::min(least, trial.best.error);
                if (product != chosen.solution.kernel.product) continue;
                BOOST_TEST(torch::equal(own.solution.coefficients, chosen.solution.coefficients));
                BOOST_TEST(torch::equal(own.leave_one_out, chosen.leave_one_out));
            }
            for (const auto& trial : chosen.kernels)
                if (is_chosen(trial, chosen.solution)) BOOST_TEST(trial.best.error <= least * (1.0 + 1e-8));
            products += chosen.solution.kernel.product ? 1 : 0;
        }
    }
    BOOST_TEST((products > 0 && products < 12));
}

BOOST_AUTO_TEST_CASE(propagation_equals_a_double_loop_for_every_combination) {
    const auto landmarks = random_features(3, 40);
    const auto labels = make_labels(landmarks);
    const auto samples = random_features(4, 600);  // two blocks
    for_each_combination([&](const KernelSettings& settings) {
        const auto result = solve(landmarks, labels, column_task, 2, settings, 0.05);
        const auto found = Propagator(result.solution)(samples);
        const auto kernel = kernel_of(result, samples, landmarks);
        for (std::int64_t c = 0; c < 2; ++c) {
            Row fit = column_of(result.solution.coefficients, c);
            fit.push_back(result.solution.intercept[c].item<double>());
            for (std::int64_t i = 0; i < 600; ++i)
                BOOST_TEST(std::fabs(number(found, i, c) -
                                     reference_prediction(fit, kernel[static_cast<std::size_t>(i)])) < 2e-5);
        }
    });
}

BOOST_AUTO_TEST_CASE(one_embedding_is_the_same_with_and_without_its_width) {
    const auto landmarks = random_features(7, 20);
    const auto labels = make_labels(landmarks);
    const auto plain = solve(landmarks, labels, column_task, 2, {}, {});
    KernelSettings settings;
    settings.widths = {9};
    const auto named = solve(landmarks, labels, column_task, 2, settings, {});
    BOOST_TEST(torch::equal(plain.leave_one_out, named.leave_one_out));
    BOOST_TEST(torch::equal(Propagator(plain.solution)(landmarks), Propagator(named.solution)(landmarks)));
}

BOOST_AUTO_TEST_SUITE_END()
