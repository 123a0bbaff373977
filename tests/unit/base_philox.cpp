#include <algorithm>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "idistill/base/philox.hpp"

using namespace idistill;

// The published test vectors do not apply (the key is derived from names), so what is tested is what is promised:
// numbers depend on their address alone, differ between streams and addresses, and are distributed as stated.

BOOST_AUTO_TEST_SUITE(philox)

BOOST_AUTO_TEST_CASE(numbers_depend_on_the_address_alone) {
    const Philox one(43, "sketch", "layer.0");
    const Philox same(43, "sketch", "layer.0");
    for (std::uint64_t row = 100; row-- > 0;) BOOST_TEST((one.words(row, 7) == same.words(row, 7)));
    const auto first = one.words(3, 4);
    (void)one.below(10, 0, 0);
    (void)one.normals(9, 9);
    BOOST_TEST((one.words(3, 4) == first));
}

BOOST_AUTO_TEST_CASE(streams_and_addresses_do_not_meet) {
    std::set<std::array<std::uint32_t, 4>> seen;
    std::size_t made = 0;
    const auto take = [&](const Philox& stream, std::uint64_t row, std::uint64_t column) {
        seen.insert(stream.words(row, column));
        ++made;
    };
    const std::vector<Philox> streams{{43, "a"},  {44, "a"},      {43, "b"},      {43, "a", "x"}, {43, "a", "y"},
                                      {43, "ab"}, {43, "a", "b"}, {43, "", "ab"}, {0, "a"},       {~0ULL, "a"}};
    for (const Philox& stream : streams) {
        for (std::uint64_t row = 0; row < 30; ++row) {
            for (std::uint64_t column = 0; column < 30; ++column) take(stream, row, column);
        }
        for (const unsigned bit : {31U, 32U, 33U, 40U, 47U}) {  // every bit of 48 of row and column counts
            take(stream, 1ULL << bit, 0);
            take(stream, 0, 1ULL << bit);
        }
    }
    BOOST_TEST(seen.size() == made);
}

BOOST_AUTO_TEST_CASE(one_bit_of_the_address_changes_half_of_the_bits) {
    const Philox random(43, "avalanche");
    double flipped = 0.0;
    constexpr int rows = 500;
    for (std::uint64_t row = 0; row < rows; ++row) {
        const auto a = random.words(row, 5);
        const auto b = random.words(row ^ (1ULL << (row % 48)), 5);
        for (std::size_t i = 0; i < 4; ++i) flipped += std::popcount(a[i] ^ b[i]);
    }
    const double mean = flipped / rows;  // of 128 bits: 64, with standard error sqrt(32 / rows) = 0.25
    BOOST_TEST(std::abs(mean - 64.0) < 1.3);
}

BOOST_AUTO_TEST_CASE(normals_are_normal_and_independent) {
    const Philox random(43, "normals");
    constexpr int pairs = 100000;
    double sum = 0.0, squares = 0.0, cubes = 0.0, fourths = 0.0, product = 0.0;
    int within_one = 0;
    for (std::uint64_t i = 0; i < pairs; ++i) {
        const auto pair = random.normals(i / 100, i % 100);
        product += static_cast<double>(pair[0]) * pair[1];
        for (const double x : pair) {
            BOOST_REQUIRE(std::isfinite(x));
            sum += x;
            squares += x * x;
            cubes += x * x * x;
            fourths += x * x * x * x;
            within_one += std::abs(x) < 1.0 ? 1 : 0;
        }
    }
    const double n = 2.0 * pairs;  // five standard errors each
    BOOST_TEST(std::abs(sum / n) < 5 * std::sqrt(1 / n));
    BOOST_TEST(std::abs(squares / n - 1.0) < 5 * std::sqrt(2 / n));
    BOOST_TEST(std::abs(cubes / n) < 5 * std::sqrt(15 / n));
    BOOST_TEST(std::abs(fourths / n - 3.0) < 5 * std::sqrt(96 / n));
    BOOST_TEST(std::abs(product / pairs) < 5 * std::sqrt(1.0 / pairs));
    BOOST_TEST(std::abs(within_one / n - std::erf(std::sqrt(0.5))) < 5 * std::sqrt(0.22 / n));
}

BOOST_AUTO_TEST_CASE(below_is_uniform) {
    const Philox random(43, "below");
    for (const std::uint64_t bound : {1ULL, 2ULL, 3ULL, 7ULL, 10ULL, 64ULL}) {
        constexpr double draws = 64000;
        std::vector<double> counts(bound, 0.0);
        for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(draws); ++i) {
            const std::uint64_t x = random.below(bound, i, bound);
            BOOST_REQUIRE(x < bound);
            ++counts[x];
        }
        const double expected = draws / static_cast<double>(bound);
        double chi_square = 0.0;
        for (const double count : counts) chi_square += (count - expected) * (count - expected) / expected;
        const auto freedom = static_cast<double>(bound - 1);  // chi-square: mean f, variance 2 f
        BOOST_TEST(chi_square <= freedom + 5 * std::sqrt(2 * freedom) + 1e-9);
    }
}

// With bound = 3 * 2^62, taking the product's upper half without rejection would give every third value twice as often.
BOOST_AUTO_TEST_CASE(below_is_exact_for_bounds_that_reject_a_quarter) {
    const Philox random(43, "rejection");
    const std::uint64_t bound = 3ULL << 62U;
    constexpr int draws = 30000;
    std::array<int, 3> residues{};
    for (std::uint64_t i = 0; i < draws; ++i) {
        const std::uint64_t x = random.below(bound, i, 0);
        BOOST_REQUIRE(x < bound);
        ++residues[x % 3];
    }
    for (const int count : residues) BOOST_TEST(std::abs(count - draws / 3) < 5 * std::sqrt(draws * 2.0 / 9.0));
}

BOOST_AUTO_TEST_SUITE_END()
