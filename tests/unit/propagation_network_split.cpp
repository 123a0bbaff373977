// No sample that a network is judged by is in a pair that it learns from.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <numeric>
#include <set>

#include "../../src/propagation/network/split.hpp"

using namespace idistill::propagation;

namespace {

using Places = std::vector<std::int64_t>;

Places none_labelled(std::int64_t columns) { return Places(static_cast<std::size_t>(columns), -1); }

/// Columns that are the labelled samples themselves, in the other order.
Places all_labelled(std::int64_t rows) {
    Places labelled(static_cast<std::size_t>(rows));
    std::iota(labelled.rbegin(), labelled.rend(), std::int64_t{0});
    return labelled;
}

/// Samples of pairs: a labelled one by its place, another column behind them.
std::set<std::int64_t> samples_of(const std::vector<Pair>& pairs, std::int64_t rows, const Places& labelled) {
    std::set<std::int64_t> samples;
    for (const auto& pair : pairs) {
        const auto own = labelled[static_cast<std::size_t>(pair.column)];
        samples.insert(pair.row);
        samples.insert(own >= 0 ? own : rows + pair.column);
    }
    return samples;
}

Places common(const std::set<std::int64_t>& a, const std::set<std::int64_t>& b) {
    Places both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return both;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(propagation_network_split)

BOOST_AUTO_TEST_CASE(no_sample_of_a_held_out_pair_is_learnt_from) {
    for (const std::uint64_t seed : {1, 43}) {
        for (const std::int64_t rows : {4, 5, 19, 20, 37, 200}) {
            for (const auto& labelled : {all_labelled(rows), none_labelled(10), none_labelled(64)}) {
                const auto split = split_samples(rows, labelled, true, seed);
                const auto learnt = pairs_of(split.rows, split.columns, labelled);
                const auto held = pairs_of(split.held_rows, split.held_columns, labelled);
                BOOST_TEST((!learnt.empty() && !held.empty()));
                BOOST_TEST(common(samples_of(learnt, rows, labelled), samples_of(held, rows, labelled)).empty());
                BOOST_TEST(split.holds_columns);
                const bool among_rows = labelled[0] >= 0;
                BOOST_TEST(std::ssize(split.held_rows) == std::max<std::int64_t>(among_rows ? 2 : 1, rows / 10));
                BOOST_TEST(std::ssize(split.held_columns) ==
                           (among_rows ? std::ssize(split.held_rows) : std::ssize(labelled) / 10));
                BOOST_TEST(std::ssize(split.rows) + std::ssize(split.held_rows) == rows);
                BOOST_TEST(std::ssize(split.columns) + std::ssize(split.held_columns) == std::ssize(labelled));
                for (const auto& pairs : {learnt, held})
                    for (const auto& pair : pairs)
                        BOOST_TEST(labelled[static_cast<std::size_t>(pair.column)] != pair.row);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(few_targets_and_means_of_targets_are_not_held_out) {
    for (const auto& [columns, by_target] : {std::pair(9, true), {1, true}, {64, false}}) {
        const auto labelled = none_labelled(columns);
        const auto split = split_samples(50, labelled, by_target, 43);
        BOOST_TEST((std::ssize(split.held_rows) == 5 && !split.holds_columns));
        BOOST_TEST((std::ssize(split.columns) == columns && split.held_columns == split.columns));
        const auto learnt = pairs_of(split.rows, split.columns, labelled);
        for (const auto& pair : learnt)
            BOOST_TEST(!std::binary_search(split.held_rows.begin(), split.held_rows.end(), pair.row));
    }
}

BOOST_AUTO_TEST_CASE(too_few_to_hold_any_out) {
    for (const std::int64_t rows : {1, 2, 3}) {
        const auto labelled = all_labelled(rows);
        const auto split = split_samples(rows, labelled, true, 43);
        BOOST_TEST((split.held_rows.empty() && std::ssize(split.rows) == rows && std::ssize(split.columns) == rows));
        BOOST_TEST(std::ssize(pairs_of(split.rows, split.columns, labelled)) == rows * (rows - 1));
    }
    BOOST_TEST(split_samples(1, none_labelled(20), true, 43).held_rows.empty());
    BOOST_TEST(split_samples(2, none_labelled(20), true, 43).held_rows.size() == 1U);
    BOOST_TEST(split_samples(2, none_labelled(1), true, 43).held_rows.size() == 1U);
}

// A labelled sample that cannot be used is no row, but still a column.
BOOST_AUTO_TEST_CASE(columns_beside_the_labelled_samples_are_learnt_from) {
    auto labelled = all_labelled(30);
    labelled.insert(labelled.begin() + 7, {-1, -1});
    const auto split = split_samples(30, labelled, true, 43);
    BOOST_TEST(split.held_columns.size() == 3U);
    for (const std::int64_t column : {7, 8})
        BOOST_TEST(std::binary_search(split.columns.begin(), split.columns.end(), column));
}

BOOST_AUTO_TEST_SUITE_END()
