// What happens to micro-batches that a GPU's memory does not hold.

#include <c10/util/Exception.h>

#include <boost/test/unit_test.hpp>

#include "idistill/model/micro_batches.hpp"

using idistill::model::add_each_micro_batch;
using idistill::model::Additions;
using idistill::model::for_each_micro_batch;
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
    for_each_micro_batch({{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {11}, {12, 13, 14, 15}}, body);
    BOOST_TEST(
        (done == std::vector<Members>{{1, 2, 3}, {1, 2, 3}, {4, 5}, {6, 7, 8}, {9, 10}, {11}, {12, 13}, {14, 15}}));
    BOOST_TEST(attempts == 1 + 7 + 1 + 3);  // at 10, 5 and 4 samples memory ran out
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

BOOST_AUTO_TEST_CASE(other_errors_are_thrown_on) {
    BOOST_CHECK_THROW(for_each_micro_batch({{1, 2}}, [](const Members&) { throw std::runtime_error("another"); }),
                      std::runtime_error);
}

BOOST_AUTO_TEST_SUITE_END()
