// The first rows of a seeded shuffle, against a shuffle of an array that is really there.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <set>

#include "idistill/base/philox.hpp"
#include "idistill/base/seeded_permutation.hpp"

using namespace idistill;

namespace {

using Rows = std::vector<std::int64_t>;

Rows first(std::size_t rows, std::int64_t count, std::uint64_t seed = 43) {
    const std::vector<std::uint8_t> eligible(rows, 1);
    return first_of_permutation(eligible, seed, "landmarks", count);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(seeded_permutation)

BOOST_AUTO_TEST_CASE(it_is_a_shuffle_of_the_eligible_rows) {
    std::vector<std::uint8_t> eligible(10000);
    Rows rows;
    for (std::size_t i = 0; i < eligible.size(); ++i) {
        if (i % 3 == 0) continue;
        eligible[i] = 1;
        rows.push_back(static_cast<std::int64_t>(i));
    }
    const Philox random(43, "landmarks");
    for (std::uint64_t i = 0; i < 3000; ++i) std::swap(rows[i], rows[i + random.below(rows.size() - i, i, 0)]);
    rows.resize(3000);
    BOOST_TEST(first_of_permutation(eligible, 43, "landmarks", 3000) == rows, boost::test_tools::per_element());
    BOOST_TEST((first_of_permutation(eligible, 43, "contrast", 3000) != rows));
}

BOOST_AUTO_TEST_CASE(a_larger_count_only_appends) {
    BOOST_TEST((first(1, 1) == Rows{0} && first(5, 0).empty()));
    auto all = first(100, 100);
    const auto some = first(100, 40);
    BOOST_TEST((some.size() == 40U && std::equal(some.begin(), some.end(), all.begin())));
    BOOST_TEST((first(100, 40, 44) != some));
    std::sort(all.begin(), all.end());
    Rows everything(100);
    std::iota(everything.begin(), everything.end(), 0);
    BOOST_TEST(all == everything, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(every_row_is_as_likely_as_any_other) {
    constexpr int seeds = 2000;
    std::vector<int> chosen(10), in_front(10);
    for (int seed = 0; seed < seeds; ++seed) {
        const auto rows = first(10, 3, static_cast<std::uint64_t>(seed));
        BOOST_REQUIRE(std::set(rows.begin(), rows.end()).size() == 3U);
        for (const auto row : rows) ++chosen[static_cast<std::size_t>(row)];
        ++in_front[static_cast<std::size_t>(rows[0])];
    }
    const auto within = [](int count, double probability) {
        return std::abs(count - seeds * probability) < 5.0 * std::sqrt(seeds * probability * (1.0 - probability));
    };
    for (std::size_t row = 0; row < 10; ++row) BOOST_TEST((within(chosen[row], 0.3) && within(in_front[row], 0.1)));
}

BOOST_AUTO_TEST_SUITE_END()
