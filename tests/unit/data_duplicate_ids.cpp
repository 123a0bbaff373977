#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "../../src/data/duplicate_ids.hpp"
#include "idistill/comm/thread_group.hpp"

using namespace idistill;
using namespace idistill::data;

namespace {

using Pair = std::pair<std::int64_t, std::int64_t>;

/// Rows shared out in turn over the ranks. `claimed_rows` decides into how many parts the keys are cut.
std::vector<Pair> found(const std::vector<std::string>& ids, int ranks, std::int64_t claimed_rows,
                        bool equal_keys = false) {
    std::vector<std::optional<Pair>> of_rank(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& communicator) {
        std::vector<RowKey> mine;
        for (auto row = static_cast<std::size_t>(communicator.rank()); row < ids.size();
             row += static_cast<std::size_t>(ranks)) {
            mine.push_back(key_of_id(equal_keys ? std::string() : ids[row], static_cast<std::int64_t>(row)));
        }
        of_rank[static_cast<std::size_t>(communicator.rank())] = find_duplicate_ids(
            communicator, mine, claimed_rows, [&](std::int64_t row) { return ids[static_cast<std::size_t>(row)]; });
    });
    std::vector<Pair> pairs;
    for (const auto& pair : of_rank) {
        if (pair) pairs.push_back(*pair);
    }
    return pairs;
}

std::vector<std::string> distinct_ids() {
    std::vector<std::string> ids;
    for (int i = 0; i < 200; ++i) ids.push_back(std::to_string(i * i) + " id");
    return ids;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(data_duplicate_ids)

BOOST_AUTO_TEST_CASE(any_number_of_parts_and_ranks_finds_the_pair) {
    for (const std::int64_t claimed_rows : {std::int64_t{200}, std::int64_t{5} << 22U, std::int64_t{100} << 22U}) {
        for (const int ranks : {1, 2, 5}) {
            auto ids = distinct_ids();
            BOOST_TEST(found(ids, ranks, claimed_rows).empty());
            ids[150] = ids[3];
            const auto pairs = found(ids, ranks, claimed_rows);
            BOOST_TEST_REQUIRE(pairs.size() == 1U);
            BOOST_TEST((pairs[0] == Pair{3, 150}));
        }
    }
}

BOOST_AUTO_TEST_CASE(of_several_pairs_in_a_part_the_first_is_named) {
    auto ids = distinct_ids();
    ids[150] = ids[3];
    ids[40] = ids[39];
    ids[199] = ids[0];
    for (const int ranks : {1, 3}) BOOST_TEST((found(ids, ranks, 200) == std::vector<Pair>{{39, 40}}));
}

BOOST_AUTO_TEST_CASE(equal_keys_of_different_ids_are_no_duplicates) {
    BOOST_TEST(found(distinct_ids(), 2, 200, true).empty());
}

BOOST_AUTO_TEST_SUITE_END()
