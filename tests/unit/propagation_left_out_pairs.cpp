// R2 within source against really leaving pairs out, and what it is made for: knowing the source alone is worth
// nothing.
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "../../src/propagation/kernel_ridge/left_out_pairs.hpp"
#include "kernel_ridge_problems.hpp"

using namespace idistill::propagation;
using namespace idistill::testing;

namespace {

/// The fit of a kernel, by inverting it.
LinearFit dense_fit(const Tensor& kernel, const Tensor& labels, double damping, bool intercept) {
    auto inverse = torch::linalg_inv(kernel + damping * torch::eye(kernel.size(0), torch::kFloat64));
    const auto ones = inverse.sum(1);
    if (intercept) inverse = inverse - ones.outer(ones) / ones.sum();
    const auto between = [inverse](const Tensor& rows, const Tensor& columns) {
        return inverse.index_select(0, rows).index_select(1, columns);
    };
    return {labels, inverse.matmul(labels), inverse.diagonal().clone(), between};
}

Tensor same_source(const Tensor& source) { return source.unsqueeze(0).eq(source.unsqueeze(1)).to(torch::kFloat64); }

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_left_out_pairs)

BOOST_AUTO_TEST_CASE(trust_within_source_equals_refitting_without_both) {
    int with_intercept = 0;
    for (const bool metadata : {false, true}) {
        for (const double offset : {-0.35, 40.0}) {
            for (const auto damping : {std::optional<double>{}, std::optional<double>{1e-2}}) {
                const auto landmarks = random_features(1, 25);
                const auto labels = make_labels(landmarks, 2, offset);
                const auto kernel = naive_kernel(landmarks, metadata)(landmarks, landmarks);
                const auto result =
                    solve(landmarks, labels, column_task, 2, {.bandwidth = {}, .metadata = metadata}, damping);
                const auto& solution = result.solution;
                with_intercept += solution.has_intercept ? 1 : 0;
                for (std::int32_t task = 0; task < 2; ++task)
                    check_close(result.trust.task_r2_within_source[static_cast<std::size_t>(task)],
                                really_leave_pairs_out(kernel, task_mean(labels, task), landmarks.source,
                                                       solution.damping, solution.has_intercept),
                                1e-8, "within source");
            }
        }
    }
    BOOST_TEST((0 < with_intercept && with_intercept < 8));
}

BOOST_AUTO_TEST_CASE(the_source_alone_is_worth_nothing) {
    const auto landmarks = random_features(3, 30);
    const auto labels = make_labels(landmarks, 4).to(torch::kFloat64);
    for (const bool intercept : {false, true}) {
        const auto fit = dense_fit(same_source(landmarks.source), labels, 0.3, intercept);
        for (const double r2 : r_squared_of_left_out_pairs(fit, landmarks.source)) BOOST_TEST(std::fabs(r2) < 1e-12);
    }
}

// More landmarks of a source than are taken at once; sources of one landmark, which have no pairs, between them.
BOOST_AUTO_TEST_CASE(all_pairs_of_a_large_source_count_once) {
    auto landmarks = random_features(5, 1100, 6, 2);
    for (const std::int64_t alone : {0, 600, 1099}) landmarks.source[alone] = 10 + alone;
    const auto labels = make_labels(landmarks, 6).to(torch::kFloat64);
    const auto distances = torch::cdist(landmarks.embedding, landmarks.embedding).to(torch::kFloat64);
    const auto fit = dense_fit((-distances.square() / 8.0).exp() + same_source(landmarks.source), labels, 0.1, true);
    const auto every = torch::arange(1100);
    const auto c = fit.between(every, every);
    const auto d = fit.diagonal.unsqueeze(1);
    const auto weight = same_source(landmarks.source) / same_source(landmarks.source).sum(1, true);
    const auto determinant = d * d.t() - c.square() + torch::eye(1100, torch::kFloat64);
    const auto found = r_squared_of_left_out_pairs(fit, landmarks.source);
    for (std::int64_t task = 0; task < labels.size(1); ++task) {
        const auto y = labels.select(1, task).unsqueeze(1);
        const auto a = fit.coefficients.select(1, task).unsqueeze(1);
        const auto own = (d.t() * a - c * a.t()) / determinant;  // residual of the row's landmark
        const auto error = (weight * (own - own.t()).square()).fill_diagonal_(0.0).sum().item<double>();
        const auto total = (weight * (y - y.t()).square()).sum().item<double>();
        check_close(found[static_cast<std::size_t>(task)], 1.0 - error / total, 1e-9, "within source");
    }
}

BOOST_AUTO_TEST_CASE(without_a_pair_or_a_rest_nothing_is_known) {
    const auto labels = torch::tensor({{1.0, 5.0}, {2.0, 5.0}, {4.0, 5.0}}, torch::kFloat64);
    const auto kernel = torch::eye(3, torch::kFloat64);
    const auto r2 = [&](std::int64_t landmarks, const Tensor& source, bool intercept) {
        const auto part = kernel.narrow(0, 0, landmarks).narrow(1, 0, landmarks);
        return r_squared_of_left_out_pairs(dense_fit(part, labels.narrow(0, 0, landmarks), 0.5, intercept), source);
    };
    const auto one_source = torch::zeros({3}, torch::kInt64);
    for (const bool intercept : {false, true}) {
        const auto all = r2(3, one_source, intercept);
        BOOST_TEST(std::fabs(all[0]) < 1e-12);  // unrelated landmarks: equal predictions
        BOOST_TEST(std::isnan(all[1]));         // labels that do not differ
        BOOST_TEST(std::isnan(r2(3, torch::arange(3), intercept)[0]));
        BOOST_TEST(std::isnan(r2(1, one_source.narrow(0, 0, 1), intercept)[0]));
    }
    BOOST_TEST(std::fabs(r2(2, one_source.narrow(0, 0, 2), false)[0]) < 1e-12);
    auto two = random_features(7, 2);
    two.source.zero_();
    const auto solved = solve(two, make_labels(two, 8, 40.0), column_task, 2, {}, {});
    BOOST_TEST((solved.solution.has_intercept && std::isnan(solved.trust.task_r2_within_source[0])));
}

BOOST_AUTO_TEST_SUITE_END()
