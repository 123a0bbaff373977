// The largest micro-batch of units, from lengths alone.

#include <boost/test/unit_test.hpp>

#include "idistill/plan/batch.hpp"

using namespace idistill;
using namespace idistill::plan;

namespace {

/// Samples of a pool, of which some are not computed.
const std::vector<Length> pool{{4, 1}, {4, 4}, {3, 1}, {9, 2}, {1, 1}, {1, 1}, {1, 1}};

std::vector<Length> in_unit(const data::WorkUnit& unit) {
    const auto first = pool.begin() + unit.rows.first;
    return {first, first + unit.rows.count};
}

bool is(const Batch& batch, const Batch& expected) {
    return batch.rows == expected.rows && batch.tokens == expected.tokens && batch.samples == expected.samples &&
           batch.labels == expected.labels && batch.longest == expected.longest;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_batch)

BOOST_AUTO_TEST_CASE(a_micro_batch_holds_a_unit_where_that_fits) {
    const std::vector<data::WorkUnit> one{{{0, 3}, 1.0}};
    BOOST_TEST(
        is(largest_batch(one, 2048, in_unit), {.rows = 3, .tokens = 11, .samples = 3, .labels = 6, .longest = 4}));
    BOOST_TEST(is(largest_batch(one, 11, in_unit), {.rows = 3, .tokens = 11, .samples = 3, .labels = 6, .longest = 4}));
}

BOOST_AUTO_TEST_CASE(it_has_no_more_tokens_than_a_batch_or_its_only_sample) {
    const std::vector<data::WorkUnit> units{{{0, 7}, 1.0}};
    // 9 alone; 4 and 4; 3 and the rest
    const auto most = largest_batch(units, 8, in_unit);
    BOOST_TEST((most.rows == 7 && most.tokens == 9 && most.longest == 9 && most.labels == 5 && most.samples == 4));
    const auto single = largest_batch(units, 1, in_unit);
    BOOST_TEST((single.rows == 7 && single.tokens == 9 && single.longest == 9 && single.labels == 4));
}

BOOST_AUTO_TEST_CASE(it_never_crosses_a_unit_and_takes_the_most_of_all) {
    const std::vector<data::WorkUnit> units{{{0, 2}, 1.0}, {{2, 2}, 1.0}, {{4, 3}, 1.0}};
    // 4 + 4 with 5 labels, 3 + 9, 1 + 1 + 1: tokens, labels and samples of three different ones
    BOOST_TEST(
        is(largest_batch(units, 2048, in_unit), {.rows = 3, .tokens = 12, .samples = 3, .labels = 5, .longest = 9}));
}

BOOST_AUTO_TEST_CASE(only_samples_that_are_computed_count) {
    const std::vector<data::WorkUnit> units{{{0, 4}, 1.0}, {{4, 3}, 1.0}};
    const auto without_long = [](const data::WorkUnit& unit) {
        auto lengths = in_unit(unit);
        std::erase_if(lengths, [](const Length& length) { return length.tokens >= 4; });
        return lengths;
    };
    BOOST_TEST(is(largest_batch(units, 2048, without_long),
                  {.rows = 3, .tokens = 3, .samples = 3, .labels = 3, .longest = 3}));
    BOOST_TEST(is(largest_batch(units, 2048, [](const data::WorkUnit&) { return std::vector<Length>(); }), {}));
    BOOST_TEST(is(largest_batch({}, 2048, in_unit), {}));
}

BOOST_AUTO_TEST_CASE(of_rows_that_are_not_known_yet) {
    // all rows as long as the longest, as many as a batch takes
    BOOST_TEST(is(any_batch(5, 2048, 20), {.rows = 5, .tokens = 100, .samples = 5, .labels = 100, .longest = 20}));
    BOOST_TEST(
        is(any_batch(500, 2048, 20), {.rows = 500, .tokens = 2048, .samples = 500, .labels = 2048, .longest = 20}));
    // samples of one token
    BOOST_TEST(
        is(any_batch(5000, 2048, 20), {.rows = 5000, .tokens = 2048, .samples = 2048, .labels = 2048, .longest = 20}));
    // a sample of its own
    BOOST_TEST(is(any_batch(5000, 16, 20), {.rows = 5000, .tokens = 20, .samples = 20, .labels = 20, .longest = 20}));
    BOOST_TEST(is(any_batch(0, 2048, 20), {.rows = 0, .tokens = 0, .samples = 0, .labels = 0, .longest = 20}));
}

BOOST_AUTO_TEST_SUITE_END()
