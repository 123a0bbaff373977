// The streaming half of kernel ridge regression against a double loop, and the solution on its way to other ranks.
#include <boost/test/unit_test.hpp>
#include <limits>
#include <stdexcept>

#include "../../src/propagation/kernel_ridge/member.hpp"
#include "idistill/comm/thread_group.hpp"
#include "kernel_ridge_problems.hpp"
#include "test_device.hpp"

using namespace idistill;
using namespace idistill::propagation;
using namespace idistill::testing;

BOOST_AUTO_TEST_SUITE(propagation_propagator)

BOOST_AUTO_TEST_CASE(propagation_equals_a_double_loop) {
    for (const bool metadata : {false, true}) {
        const auto landmarks = random_features(7, 60, 16);
        const auto labels = make_labels(landmarks, 8);
        const auto result = solve(landmarks, labels, column_task, 2, {.bandwidth = {}, .metadata = metadata}, {});
        const auto samples = random_features(9, 1100, 16, 9);  // three blocks; sources 5 to 8 have no landmark
        const auto found = Propagator(result.solution)(samples);
        const auto kernel = naive_kernel(landmarks, metadata)(samples, landmarks);
        const auto coefficients = to_matrix(result.solution.coefficients);
        BOOST_TEST(found.size(0) == 1100);
        for (std::int64_t c = 0; c < 5; ++c) {
            Row fit;
            for (const auto& row : coefficients) fit.push_back(row[static_cast<std::size_t>(c)]);
            fit.push_back(result.solution.intercept[c].item<double>());
            const auto values = column_of(found, c);
            for (std::size_t i = 0; i < values.size(); ++i)
                check_close(values[i], reference_prediction(fit, kernel[i]), 1e-5, "sample");
        }
        const auto again = Propagator(result.solution)(samples);
        BOOST_TEST(torch::equal(found, again));
    }
}

BOOST_AUTO_TEST_CASE(with_little_damping_landmarks_keep_their_labels) {
    for (const bool metadata : {false, true}) {
        const auto landmarks = random_features(10, 50, 16);
        const auto labels = make_labels(landmarks, 11);
        const auto result = solve(landmarks, labels, column_task, 2, {.bandwidth = {}, .metadata = metadata}, 1e-6);
        const auto found = Propagator(result.solution)(landmarks);
        BOOST_TEST((found - labels).abs().max().item<double>() < 2e-4);
    }
}

BOOST_AUTO_TEST_CASE(a_sample_that_is_not_finite_gets_no_number_and_harms_no_other) {
    const auto landmarks = random_features(12, 30);
    const Propagator propagator(solve(landmarks, make_labels(landmarks, 13), column_task, 2, {}, {}).solution);
    auto samples = random_features(14, 10);
    const auto clean = propagator(samples);
    samples.embedding = samples.embedding.clone();
    samples.embedding[3][1] = std::numeric_limits<float>::quiet_NaN();
    samples.embedding[7][0] = std::numeric_limits<float>::infinity();
    const auto found = propagator(samples);
    for (const std::int64_t row : {3, 7}) BOOST_TEST(found[row].isnan().all().item<bool>());
    for (const std::int64_t row : {0, 2, 4, 6, 8, 9}) BOOST_TEST(torch::equal(found[row], clean[row]));
    BOOST_TEST(propagator(random_features(15, 0)).size(0) == 0);
}

BOOST_AUTO_TEST_CASE(where_a_devices_memory_ends_blocks_are_halves) {
    const auto landmarks = random_features(16, 40, 16);
    const auto solution = solve(landmarks, make_labels(landmarks, 17), column_task, 2, {}, {}).solution;
    const auto samples = random_features(18, 700, 16);
    const auto truth = Propagator(solution)(samples);
    const Propagator propagator(solution, idistill::test::test_device());
    const auto before = idistill::test::device_allocations();
    BOOST_TEST(((propagator(samples).cpu() - truth).abs().max().item<double>() < 1e-5));
    const auto pieces = idistill::test::device_allocations() - before;
    std::int64_t survived = 0;
    for (std::int64_t end = 1; end <= pieces; ++end) {
        idistill::test::run_out_of_memory_at(end);
        try {
            BOOST_TEST(((propagator(samples).cpu() - truth).abs().max().item<double>() < 1e-5));
            ++survived;
        } catch (const c10::OutOfMemoryError&) {  // of what is held for all blocks
        }
        idistill::test::run_out_of_memory_at(0);
    }
    BOOST_TEST(2 * survived > pieces);
}

BOOST_AUTO_TEST_CASE(a_fit_arrives_exactly) {
    const auto landmarks = random_features(29, 13);
    const auto samples = random_features(31, 20);
    for (const bool metadata : {false, true}) {
        const KernelSettings kernel{.bandwidth = {}, .metadata = metadata, .widths = {2, 4}, .product = !metadata};
        const auto solved = solve(landmarks, make_labels(landmarks, 30), column_task, 2, kernel, {});
        const auto leave_one_out = solved.leave_one_out.to(torch::kFloat32);
        comm::run_ranks_as_threads(3, [&](comm::Communicator& comm) {
            Fit fit;
            if (comm.is_root()) {
                fit.embeddings = {2, 0};
                fit.candidate = 5;
                fit.trials.cost = {0.25, 0.5};
                fit.solution = solved.solution;
                fit.leave_one_out = leave_one_out;
                fit.trust = solved.trust;
            }
            const auto device = metadata ? torch::Device(torch::kCPU) : idistill::test::test_device();
            const auto features = [&](const Places& places) {
                if (places != Places{2, 0}) throw std::runtime_error("other embeddings");
                return landmarks;
            };
            broadcast_fit(comm, fit, features, device);
            const bool same = fit.candidate == 5 && fit.trials.cost == std::vector<double>{0.25, 0.5} &&
                              fit.trials.error.empty() && fit.trust.task_r2 == solved.trust.task_r2 &&
                              fit.solution.damping == solved.solution.damping &&
                              fit.solution.has_intercept == solved.solution.has_intercept &&
                              torch::equal(fit.leave_one_out, leave_one_out) &&
                              torch::equal(Propagator(fit.solution)(samples), Propagator(solved.solution)(samples));
            if (!same) throw std::runtime_error("another fit on rank " + std::to_string(comm.rank()));
        });
    }
}

BOOST_AUTO_TEST_SUITE_END()
