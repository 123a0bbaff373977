#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <set>

#include "idistill/base/philox.hpp"
#include "idistill/data/work_unit.hpp"

using namespace idistill;
using namespace idistill::data;

namespace {

std::vector<double> random_flops(std::uint64_t seed, std::size_t rows) {
    const Philox random(seed, "flops");
    std::vector<double> flops(rows);
    for (std::size_t row = 0; row < rows; ++row) flops[row] = static_cast<double>(random.below(10, row, 0));
    return flops;
}

/// Units cover the rows in order, keep the limits, and none could have taken the next row.
void check_units(const std::vector<WorkUnit>& units, const std::vector<double>& flops, double unit_flops,
                 std::int64_t unit_rows, const std::vector<std::int64_t>& borders) {
    std::int64_t next = 0;
    for (const WorkUnit& unit : units) {
        BOOST_TEST_REQUIRE(unit.rows.first == next);
        BOOST_TEST_REQUIRE(unit.rows.count >= 1);
        next = unit.rows.end();
        double sum = 0.0;
        for (auto row = unit.rows.first; row < next; ++row) sum += flops[static_cast<std::size_t>(row)];
        BOOST_TEST(unit.flops == sum);
        BOOST_TEST((unit.rows.count == 1 || sum <= unit_flops));
        BOOST_TEST(unit.rows.count <= unit_rows);
        for (const auto border : borders) BOOST_TEST(!(unit.rows.first < border && border < next));
        if (next == static_cast<std::int64_t>(flops.size())) continue;
        const bool at_border = std::find(borders.begin(), borders.end(), next) != borders.end();
        const bool full = unit.rows.count == unit_rows || sum + flops[static_cast<std::size_t>(next)] > unit_flops;
        BOOST_TEST((at_border || full));
    }
    BOOST_TEST(next == static_cast<std::int64_t>(flops.size()));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(data_work_unit)

BOOST_AUTO_TEST_CASE(units_cover_the_rows_within_their_limits) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const auto flops = random_flops(seed, 7 * seed);
        for (const double unit_flops : {0.5, 9.0, 25.0, 1e9}) {
            for (const std::int64_t unit_rows : {1, 3, 1000}) {
                check_units(cut_units(flops, unit_flops, unit_rows), flops, unit_flops, unit_rows, {});
                const std::vector<std::int64_t> borders{0, 2, 2, 11, 50, 1000};
                check_units(cut_units(flops, unit_flops, unit_rows, borders), flops, unit_flops, unit_rows, borders);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(no_rows_make_no_units) { BOOST_TEST(cut_units({}, 1.0, 1).empty()); }

BOOST_AUTO_TEST_CASE(a_row_above_the_limit_is_a_unit_of_its_own) {
    const std::vector<double> flops{1, 100, 1, 1};
    const auto units = cut_units(flops, 2.0, 10);
    BOOST_TEST_REQUIRE(units.size() == 3U);
    BOOST_TEST((units[1].rows == RowRange{1, 1}));
    BOOST_TEST((units[2].rows == RowRange{2, 2}));
}

BOOST_AUTO_TEST_CASE(dear_units_are_claimed_first_and_equal_ones_by_number) {
    const std::vector<WorkUnit> units{{{0, 1}, 2.0}, {{1, 1}, 5.0}, {{2, 1}, 2.0}, {{3, 1}, 7.0}, {{4, 1}, 5.0}};
    const std::vector<std::int64_t> expected{3, 1, 4, 0, 2};
    BOOST_TEST(claim_order(units) == expected, boost::test_tools::per_element());
    BOOST_TEST(claim_order({}).empty());
}

BOOST_AUTO_TEST_CASE(micro_batches_hold_every_row_once_longest_first_within_the_budget) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const Philox random(seed, "lengths");
        std::vector<std::int32_t> lengths(11 * seed);
        for (std::size_t i = 0; i < lengths.size(); ++i) lengths[i] = static_cast<std::int32_t>(random.below(9, i, 0));
        for (const std::int64_t budget : {1, 8, 20, 100000}) {
            const auto batches = pack_micro_batches(lengths, budget);
            std::vector<std::int64_t> order;
            std::int64_t previous = 0;
            for (const auto& batch : batches) {
                BOOST_TEST_REQUIRE(!batch.empty());
                std::int64_t tokens = 0;
                for (const auto row : batch) tokens += lengths[static_cast<std::size_t>(row)];
                BOOST_TEST((batch.size() == 1 || tokens <= budget));
                if (previous > 0) BOOST_TEST(previous + lengths[static_cast<std::size_t>(batch.front())] > budget);
                previous = tokens;
                order.insert(order.end(), batch.begin(), batch.end());
            }
            // Brute force: the wanted order, by repeatedly taking the longest row that is left, the first of equals.
            std::vector<std::int64_t> wanted;
            std::set<std::int64_t> left;
            for (std::size_t i = 0; i < lengths.size(); ++i) {
                if (lengths[i] > 0) left.insert(static_cast<std::int64_t>(i));
            }
            while (!left.empty()) {
                const auto longest = *std::max_element(left.begin(), left.end(), [&](std::int64_t a, std::int64_t b) {
                    return lengths[static_cast<std::size_t>(a)] < lengths[static_cast<std::size_t>(b)];
                });
                wanted.push_back(longest);
                left.erase(longest);
            }
            BOOST_TEST(order == wanted, boost::test_tools::per_element());
        }
    }
}

BOOST_AUTO_TEST_CASE(shards_are_contiguous_and_differ_by_one_row_at_most) {
    for (const std::int64_t rows : {0, 1, 2, 7, 64, 1'000'003}) {
        for (const int size : {1, 2, 3, 5, 8, 64}) {
            std::int64_t next = 0;
            std::int64_t smallest = rows;
            std::int64_t largest = 0;
            for (int rank = 0; rank < size; ++rank) {
                const RowRange shard = shard_of(rows, rank, size);
                BOOST_TEST(shard.first == next);
                next = shard.end();
                smallest = std::min(smallest, shard.count);
                largest = std::max(largest, shard.count);
            }
            BOOST_TEST(next == rows);
            BOOST_TEST(largest - smallest <= 1);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
