// Fit, leave-one-out, choice of damping, trust against the reference, and the edges of each.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "idistill/base/error.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "kernel_ridge_problems.hpp"

using namespace idistill;
using namespace idistill::propagation;
using namespace idistill::testing;

namespace {

double reference_error(const Matrix& kernel, const Tensor& labels, double damping, bool intercept) {
    double sum = 0.0;
    for (std::int32_t task = 0; task < 2; ++task) {
        const auto truth = task_mean(labels, task);
        const auto left_out = really_leave_out(kernel, truth, damping, intercept);
        double mean = 0.0, error = 0.0, variance = 0.0;
        for (const double value : truth) mean += value / static_cast<double>(truth.size());
        for (std::size_t i = 0; i < truth.size(); ++i) {
            error += (truth[i] - left_out[i]) * (truth[i] - left_out[i]);
            variance += (truth[i] - mean) * (truth[i] - mean);
        }
        sum += error / variance / 2.0;
    }
    return sum;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_kernel_ridge)

// A fixed damping leaves the intercept to be chosen; both settings are compared whichever it takes, as every further
// column has one and the trials report the error of both.
BOOST_AUTO_TEST_CASE(fit_and_leave_one_out_equal_refitting) {
    for (const bool metadata : {false, true}) {
        for (const double offset : {-0.35, 40.0}) {  // about mean zero: no intercept pays; far from zero: it does
            const auto landmarks = random_features(1, 25);
            const auto labels = make_labels(landmarks, 2, offset);
            const auto naive = naive_kernel(landmarks, metadata);
            const auto kernel = naive(landmarks, landmarks);
            for (const double damping : {1e-3, 1e-1, 10.0}) {
                BOOST_TEST_CONTEXT("metadata " << metadata << " offset " << offset << " damping " << damping) {
                    const auto result =
                        solve(landmarks, labels, column_task, 2, {.bandwidth = {}, .metadata = metadata}, damping);
                    const auto& solution = result.solution;
                    check_close(solution.embedding_bandwidths.front(), naive.embedding_bandwidth, 1e-12, "bandwidth");
                    BOOST_TEST(solution.kernel.metadata == metadata);
                    BOOST_TEST(solution.damping == damping);
                    for (std::int64_t c = 0; c < 5; ++c) {
                        const bool intercept = c == 4 || solution.has_intercept;
                        const auto truth = column_of(labels, c);
                        const auto fit = reference_fit(kernel, truth, damping, intercept);
                        const auto left_out = really_leave_out(kernel, truth, damping, intercept);
                        check_close(solution.intercept[c].item<double>(), fit.back(), 1e-8, "intercept");
                        for (std::int64_t i = 0; i < 25; ++i) {
                            const auto row = static_cast<std::size_t>(i);
                            check_close(number(solution.coefficients, i, c), fit[row], 1e-8, "coefficient");
                            check_close(number(result.leave_one_out, i, c), left_out[row], 1e-8, "left out");
                        }
                    }
                    BOOST_TEST(result.trials.size() == 2U);
                    for (const auto& trial : result.trials) {
                        check_close(trial.error, reference_error(kernel, labels, damping, trial.intercept), 1e-8,
                                    "error");
                    }
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(automatic_damping_is_the_best_of_the_grid) {
    for (const bool metadata : {false, true}) {
        for (const double offset : {-0.35, 40.0}) {
            const auto landmarks = random_features(3, 20);
            const auto labels = make_labels(landmarks, 4, offset);
            const auto kernel = naive_kernel(landmarks, metadata)(landmarks, landmarks);
            const auto result = solve(landmarks, labels, column_task, 2, {.bandwidth = {}, .metadata = metadata}, {});
            BOOST_TEST_REQUIRE(result.trials.size() == 50U);
            double best = std::numeric_limits<double>::infinity();
            double best_damping = 0.0;
            bool best_intercept = false;
            for (int step = 0; step <= 24; ++step) {
                for (const bool intercept : {false, true}) {
                    const double damping = std::pow(10.0, -4.0 + 0.25 * step);
                    const double error = reference_error(kernel, labels, damping, intercept);
                    const auto& trial = result.trials[static_cast<std::size_t>(2 * step + (intercept ? 1 : 0))];
                    check_close(trial.damping, damping, 1e-12, "damping");
                    BOOST_TEST(trial.intercept == intercept);
                    check_close(trial.error, error, 1e-6, "error");
                    if (error < best) best = error, best_damping = damping, best_intercept = intercept;
                }
            }
            check_close(result.solution.damping, best_damping, 1e-12, "chosen damping");
            BOOST_TEST(result.solution.has_intercept == best_intercept);
            if (offset == 40.0) BOOST_TEST(best_intercept);
        }
    }
}

BOOST_AUTO_TEST_CASE(automatic_bandwidth_is_the_best_of_the_grid) {
    bool off_the_median = false;
    for (const bool metadata : {false, true}) {
        for (const unsigned seed : {3U, 50U}) {
            const auto landmarks = random_features(seed, 16);
            const auto labels = make_labels(landmarks, seed + 1);
            const KernelSettings automatic{.bandwidth = {}, .metadata = metadata, .choose_bandwidth = true};
            const auto result = solve(landmarks, labels, column_task, 2, automatic, {});
            auto naive = naive_kernel(landmarks, metadata);
            const double median = naive.embedding_bandwidth;
            double best = std::numeric_limits<double>::infinity();
            double best_bandwidth = 0.0, best_damping = 0.0;
            BOOST_TEST_REQUIRE(result.kernels.size() == 5U);
            for (int power = 2; power >= -2; --power) {  // on a tie the larger bandwidth
                naive.embedding_bandwidth = median * std::pow(2.0, power);
                const auto kernel = naive(landmarks, landmarks);
                double own = std::numeric_limits<double>::infinity();
                for (int step = 24; step >= 0; --step) {
                    for (const bool intercept : {true, false}) {
                        const double damping = std::pow(10.0, -4.0 + 0.25 * step);
                        const double error = reference_error(kernel, labels, damping, intercept);
                        own = std::min(own, error);
                        if (error < best)
                            best = error, best_bandwidth = naive.embedding_bandwidth, best_damping = damping;
                    }
                }
                const auto& trial = result.kernels[static_cast<std::size_t>(power + 2)];
                check_close(trial.bandwidths.front(), naive.embedding_bandwidth, 1e-12, "bandwidth");
                check_close(trial.best.error, own, 1e-6, "error");
            }
            check_close(result.solution.embedding_bandwidths.front(), best_bandwidth, 1e-12, "chosen bandwidth");
            check_close(result.solution.damping, best_damping, 1e-12, "chosen damping");
            BOOST_TEST(!result.solution.kernel.bandwidth.has_value());
            off_the_median = off_the_median || best_bandwidth != median;

            // The same numbers as with this bandwidth given, which other tests compare with really leaving out.
            const auto given =
                solve(landmarks, labels, column_task, 2,
                      {.bandwidth = result.solution.embedding_bandwidths.front(), .metadata = metadata}, {});
            BOOST_TEST(torch::equal(given.leave_one_out, result.leave_one_out));
            BOOST_TEST(torch::equal(given.solution.coefficients, result.solution.coefficients));
            BOOST_TEST((given.trials.size() == 50U && given.kernels.size() == 1U));
            BOOST_TEST(given.trials[7].error == result.trials[7].error);
        }
    }
    BOOST_TEST(off_the_median);
}

// Equal labels: every bandwidth predicts them. One landmark: no error is defined. Points that coincide: no distance.
BOOST_AUTO_TEST_CASE(automatic_bandwidth_where_none_is_better) {
    const KernelSettings automatic{.bandwidth = {}, .metadata = true, .choose_bandwidth = true};
    const auto landmarks = random_features(34, 12);
    const auto equal = solve(landmarks, torch::full({12, 4}, 0.5F), column_task, 2, automatic, {});
    BOOST_TEST(equal.solution.embedding_bandwidths.front() == equal.kernels.back().bandwidths.front());
    const auto one = random_features(35, 1);
    const auto alone = solve(one, make_labels(one, 36), column_task, 2, automatic, {});
    BOOST_TEST(alone.solution.embedding_bandwidths.front() == alone.kernels.back().bandwidths.front());
    auto same = random_features(37, 8);
    same.embedding.zero_();
    const auto result = solve(same, make_labels(same, 38), column_task, 2, automatic, {});
    BOOST_TEST(result.kernels.front().bandwidths.front() == 1e-6);
    BOOST_TEST(result.solution.coefficients.isfinite().all().item<bool>());
}

BOOST_AUTO_TEST_CASE(trust_is_that_of_the_left_out_predictions) {
    const auto landmarks = random_features(5, 40);
    const auto labels = make_labels(landmarks, 6);
    const auto result = solve(landmarks, labels, column_task, 2, {}, {});
    for (std::int64_t c = 0; c < 4; ++c) {
        check_close(result.trust.column_r2[static_cast<std::size_t>(c)],
                    r_squared(column_of(labels, c), column_of(result.leave_one_out, c)), 1e-12, "column");
    }
    BOOST_TEST(result.trust.column_r2.size() == 4U);

    const auto same = to_matrix(landmarks.source.unsqueeze(0).eq(landmarks.source.unsqueeze(1)));
    double best = std::numeric_limits<double>::infinity();
    std::vector<Row> alone(2);
    for (int step = 0; step <= 24; ++step) {
        for (const bool intercept : {false, true}) {
            const double damping = std::pow(10.0, -4.0 + 0.25 * step);
            const double error = reference_error(same, labels, damping, intercept);
            if (error >= best) continue;
            best = error;
            for (std::int32_t t = 0; t < 2; ++t) {
                alone[static_cast<std::size_t>(t)] = really_leave_out(same, task_mean(labels, t), damping, intercept);
            }
        }
    }
    for (std::int32_t t = 0; t < 2; ++t) {
        const auto task = static_cast<std::size_t>(t);
        const auto truth = task_mean(labels, t);
        const auto prediction = task_mean(result.leave_one_out, t);
        check_close(result.trust.task_r2[task], r_squared(truth, prediction), 1e-12, "r2");
        check_close(result.trust.task_spearman[task], spearman(truth, prediction), 1e-12, "spearman");
        check_close(result.trust.task_r2_source_only[task], r_squared(truth, alone[task]), 1e-8, "source only");
    }
    // Task 1 depends on the source: its name alone must tell something, and less than everything together.
    BOOST_TEST(result.trust.task_spearman_source_only[1] > 0.0);
    BOOST_TEST(result.trust.task_r2[1] > result.trust.task_r2_source_only[1]);
}

BOOST_AUTO_TEST_CASE(without_sources_trust_by_source_is_not_a_number) {
    auto landmarks = random_features(5, 12);
    const auto labels = make_labels(landmarks, 6);
    landmarks.source = Tensor();
    const auto result = solve(landmarks, labels, column_task, 2, {}, {});
    BOOST_TEST(!result.solution.kernel.metadata);
    BOOST_TEST(std::isfinite(result.trust.task_r2[0]));
    BOOST_TEST(std::isnan(result.trust.task_r2_within_source[0]));
    BOOST_TEST(std::isnan(result.trust.task_r2_source_only[1]));
    BOOST_TEST(std::isnan(result.trust.task_spearman_source_only[1]));
}

BOOST_AUTO_TEST_CASE(one_landmark_predicts_its_label) {
    for (const auto damping : {std::optional<double>{}, std::optional<double>{0.5}}) {
        const auto landmark = random_features(16, 1);
        const auto labels = make_labels(landmark, 17);
        const auto result = solve(landmark, labels, column_task, 2, {}, damping);
        BOOST_TEST(result.solution.has_intercept);
        BOOST_TEST(result.leave_one_out.isnan().all().item<bool>());
        BOOST_TEST(std::isnan(result.trust.task_r2[0]));
        BOOST_TEST(std::isnan(result.trust.task_r2_source_only[0]));
        const auto found = Propagator(result.solution)(random_features(18, 3));
        BOOST_TEST((found - labels).abs().max().item<double>() < 1e-6);
    }
}

BOOST_AUTO_TEST_CASE(of_two_landmarks_each_predicts_the_other) {
    const auto landmarks = random_features(19, 2);
    const auto labels = make_labels(landmarks, 20, 40.0);
    const auto result = solve(landmarks, labels, column_task, 2, {}, {});
    BOOST_TEST(result.solution.has_intercept);
    for (std::int64_t c = 0; c < 5; ++c) {
        check_close(number(result.leave_one_out, 0, c), number(labels, 1, c), 1e-9, "first");
        check_close(number(result.leave_one_out, 1, c), number(labels, 0, c), 1e-9, "second");
    }
}

BOOST_AUTO_TEST_CASE(equal_labels_are_predicted_everywhere) {
    const auto landmarks = random_features(21, 15);
    const auto result = solve(landmarks, torch::full({15, 5}, 0.1F), column_task, 2, {}, {});
    BOOST_TEST(result.solution.has_intercept);
    BOOST_TEST(result.solution.damping == 100.0);
    BOOST_TEST(std::isnan(result.trials[0].error));
    for (const double r2 : {result.trust.column_r2[0], result.trust.task_r2[1], result.trust.task_r2_within_source[0],
                            result.trust.task_r2_source_only[0], result.trust.task_spearman_source_only[1]}) {
        BOOST_TEST(std::isnan(r2));
    }
    const auto found = Propagator(result.solution)(random_features(22, 40));
    BOOST_TEST((found - 0.1).abs().max().item<double>() < 1e-6);
    BOOST_TEST((result.leave_one_out - 0.1).abs().max().item<double>() < 1e-6);
}

// One constant task among two takes no part in the choice, and its trust is undefined.
BOOST_AUTO_TEST_CASE(a_task_that_does_not_vary_is_skipped) {
    const auto landmarks = random_features(23, 20);
    auto labels = make_labels(landmarks, 24);
    const auto one = solve(landmarks, labels.index_select(1, torch::tensor({0, 2})), {0, 0}, 1, {}, {});
    labels.select(1, 1).fill_(0.1F);
    labels.select(1, 3).fill_(0.7F);
    const auto both = solve(landmarks, labels.narrow(1, 0, 4), column_task, 2, {}, {});
    BOOST_TEST(both.solution.damping == one.solution.damping);
    BOOST_TEST(both.solution.has_intercept == one.solution.has_intercept);
    check_close(both.trials[7].error, one.trials[7].error, 1e-12, "error");
    BOOST_TEST(std::isnan(both.trust.task_r2[1]));
    BOOST_TEST(std::isfinite(both.trust.task_r2[0]));
}

BOOST_AUTO_TEST_CASE(duplicated_rows_share_their_prediction) {
    auto landmarks = random_features(25, 30);
    landmarks.embedding = landmarks.embedding.narrow(0, 0, 6).repeat({5, 1});  // 60 of 435 pairs are at distance 0
    landmarks.log_lengths = landmarks.log_lengths.narrow(0, 0, 1).repeat({30, 1});
    landmarks.source = landmarks.source.narrow(0, 0, 6).repeat({5});
    const auto labels = make_labels(landmarks, 26);
    const auto result = solve(landmarks, labels, column_task, 2, {}, 1e-4);
    BOOST_TEST(result.solution.coefficients.isfinite().all().item<bool>());
    const auto found = Propagator(result.solution)(landmarks);
    const auto mean = labels.view({5, 6, 5}).mean(0);  // five copies of a point: least squares predicts their mean
    BOOST_TEST((found.narrow(0, 0, 6) - mean).abs().max().item<double>() < 1e-2);
    BOOST_TEST((found.narrow(0, 0, 6) - found.narrow(0, 24, 6)).abs().max().item<double>() < 1e-5);
}

BOOST_AUTO_TEST_CASE(bandwidth_when_most_pairs_are_equal) {
    Features landmarks;
    landmarks.embedding = torch::zeros({10, 2}, torch::kFloat32);
    landmarks.embedding[9][0] = 3.0F;
    const auto labels = make_labels(random_features(27, 10), 28);
    BOOST_TEST(solve(landmarks, labels, column_task, 2, {}, {}).solution.embedding_bandwidths.front() == 3.0);
    landmarks.embedding.zero_();
    const auto result = solve(landmarks, labels, column_task, 2, {}, {});
    BOOST_TEST(result.solution.embedding_bandwidths.front() == 1e-6);
    BOOST_TEST(Propagator(result.solution)(landmarks).isfinite().all().item<bool>());
    BOOST_TEST(solve(landmarks, labels, column_task, 2, {.bandwidth = 2.5, .metadata = false}, {})
                   .solution.embedding_bandwidths.front() == 2.5);
}

BOOST_AUTO_TEST_CASE(senseless_input_is_named) {
    auto landmarks = random_features(32, 8);
    auto labels = make_labels(landmarks, 33);
    const auto failure = [&](const KernelSettings& kernel, std::optional<double> damping) {
        try {
            solve(landmarks, labels, column_task, 2, kernel, damping);
        } catch (const Error& error) {
            return std::pair(error.code(), error.failure());
        }
        return std::pair(ExitCode::ok, Failure{});
    };
    BOOST_TEST((failure({}, {}).first == ExitCode::ok));
    BOOST_TEST(failure({}, 0.0).second.field == "--damping");
    BOOST_TEST(failure({.bandwidth = -1.0, .metadata = true}, {}).second.field == "--bandwidth");
    labels[5][2] = std::numeric_limits<float>::quiet_NaN();
    BOOST_TEST((failure({}, {}).first == ExitCode::bad_input));
    BOOST_TEST(failure({}, {}).second.field == "labels");
    BOOST_TEST(failure({}, {}).second.found == "landmark 5 without");
}

BOOST_AUTO_TEST_SUITE_END()
