// What happens to micro-batches that a GPU's memory does not hold.

#include <c10/util/Exception.h>

#include <boost/test/unit_test.hpp>
#include <new>
#include <stdexcept>
#include <string>

#include "idistill/model/micro_batches.hpp"

using idistill::model::add_each_micro_batch;
using idistill::model::Additions;
using idistill::model::for_each_micro_batch;
using idistill::model::is_out_of_memory;
using Members = std::vector<std::int64_t>;

BOOST_AUTO_TEST_SUITE(model_micro_batches)

BOOST_AUTO_TEST_CASE(a_batch_that_does_not_fit_is_computed_in_halves) {
    std::vector<Members> done;
    int attempts = 0;
    const auto body = [&](const Members& members) {
        ++attempts;
        if (members.size() > 3) C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory");
        done.push_back(members);
    };
    for_each_micro_batch({{1, 2, 3}}, body);
    BOOST_TEST(attempts == 1);
    for_each_micro_batch({{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, body);
    BOOST_TEST((done == std::vector<Members>{{1, 2, 3}, {1, 2, 3}, {4, 5}, {6, 7, 8}, {9, 10}}));
    BOOST_TEST(attempts == 1 + 6);  // at ten samples memory ran out, and at the first five
}

BOOST_AUTO_TEST_CASE(what_did_not_fit_is_not_tried_again) {
    std::vector<Members> done;
    int failures = 0;
    const auto body = [&](const Members& members) {  // at most 40 tokens, of batches of 100
        if (!members.empty() && members.size() * static_cast<std::size_t>(members[0]) > 40) {
            ++failures;
            C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory");
        }
        done.push_back(members);
    };
    const Members long_ones(4, 25), short_ones(20, 5), one{40};
    const std::vector<Members> batches{one, long_ones, short_ones, one};
    for_each_micro_batch(batches, body);
    const Members piece(1, 25), other(5, 5);
    BOOST_TEST(failures == 2);
    BOOST_TEST((done == std::vector<Members>{one, piece, piece, piece, piece, other, other, other, other, one}));
    for_each_micro_batch(batches, body);  // another call knows nothing of it
    BOOST_TEST(failures == 4);
}

BOOST_AUTO_TEST_CASE(what_a_batch_had_added_counts_once) {
    // Three sums; memory ends behind the first one above three samples, behind the second one above one.
    std::vector<std::vector<std::int64_t>> sums(3);
    const auto body = [&](const Members& members, Additions& additions) {
        for (std::size_t sum = 0; sum < sums.size(); ++sum) {
            if ((sum == 1 && members.size() > 3) || (sum == 2 && members.size() > 1))
                C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory");
            additions([&] { sums[sum].insert(sums[sum].end(), members.begin(), members.end()); });
        }
    };
    add_each_micro_batch({{1, 2, 3, 4, 5, 6, 7}, {8}}, body);
    for (const auto& sum : sums) BOOST_TEST((sum == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
}

BOOST_AUTO_TEST_CASE(one_sample_that_does_not_fit_is_an_error) {
    const auto never = [](const Members&) { C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory"); };
    BOOST_CHECK_THROW(for_each_micro_batch({{1}}, never), c10::OutOfMemoryError);
}

BOOST_AUTO_TEST_CASE(memory_of_a_gpu_ends_in_many_words) {
    const auto of_torch = [](const char* text) { return c10::Error(std::string(text)); };
    BOOST_TEST(is_out_of_memory(of_torch("CUDA error: out of memory")));
    BOOST_TEST(
        is_out_of_memory(of_torch("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")));
    BOOST_TEST(is_out_of_memory(of_torch("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling")));
    BOOST_TEST(is_out_of_memory(of_torch("cuFFT error: CUFFT_ALLOC_FAILED")));
    BOOST_TEST(is_out_of_memory(of_torch("a CUDA kernel failed: out of memory")));
    BOOST_TEST(is_out_of_memory(std::runtime_error("CUDA error: out of memory")));
    BOOST_TEST(!is_out_of_memory(of_torch("CUDA error: an illegal memory access was encountered")));
    BOOST_TEST(!is_out_of_memory(std::bad_alloc()));
    int calls = 0;
    for_each_micro_batch({{1, 2}}, [&](const Members& members) {
        ++calls;
        TORCH_CHECK(members.size() == 1, "CUDA error: out of memory");
    });
    BOOST_TEST(calls == 3);
}

BOOST_AUTO_TEST_CASE(other_errors_are_thrown_on) {
    BOOST_CHECK_THROW(for_each_micro_batch({{1, 2}}, [](const Members&) { throw std::runtime_error("another"); }),
                      std::runtime_error);
}

BOOST_AUTO_TEST_SUITE_END()
