// Samples that are there twice, by content: in pool and targets, and in the pool alone.

#include <boost/test/unit_test.hpp>

#include "idistill/comm/thread_group.hpp"
#include "idistill/data/overlap.hpp"
#include "idistill/data/token_file.hpp"
#include "token_files.hpp"

using namespace idistill;
using namespace idistill::data;
using namespace idistill::test;

namespace {

using Tokens = std::vector<std::int32_t>;
using Mask = std::vector<std::uint8_t>;
struct Sample {
    Tokens tokens;
    Mask mask;
};

std::vector<std::string> write_files(const TemporaryFolder& folder, const std::string& name,
                                     const std::vector<std::vector<Sample>>& files) {
    std::vector<std::string> paths;
    for (std::size_t file = 0; file < files.size(); ++file) {
        TokenContent content;
        for (std::size_t i = 0; i < files[file].size(); ++i)
            content.add(name + std::to_string(file) + "-" + std::to_string(i), name, files[file][i].tokens,
                        files[file][i].mask);
        paths.push_back(folder / (name + std::to_string(file) + ".h5"));
        write_token_file(paths.back(), content);
    }
    return paths;
}

Overlap overlap_of(const std::vector<std::vector<Sample>>& pool, const std::vector<std::vector<Sample>>& targets,
                   int ranks) {
    const TemporaryFolder folder;
    const auto pool_files = write_files(folder, "pool", pool), target_files = write_files(folder, "target", targets);
    std::vector<Overlap> found(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& comm) {
        Corpus of_pool(pool_files, 100), of_targets(target_files, 100);
        of_pool.scan(comm);
        of_targets.scan(comm);
        found[static_cast<std::size_t>(comm.rank())] = find_overlap(comm, of_pool, of_targets);
    });
    for (const auto& one : found)
        BOOST_TEST((one.pool_rows == found[0].pool_rows && one.repeated == found[0].repeated));
    return found.back();
}

const Sample a{{1, 2, 3, 4}, {0, 0, 1, 1}}, b{{1, 2, 3, 5}, {0, 0, 1, 1}}, c{{7, 8}, {0, 1}}, d{{9, 9, 9}, {0, 1, 0}};

}  // namespace

BOOST_AUTO_TEST_SUITE(data_overlap)

BOOST_AUTO_TEST_CASE(content_is_tokens_and_labels) {
    const auto key = [](const Tokens& tokens, const Mask& mask) {
        const auto found = key_of_content(tokens, mask, 0);
        return std::pair(found.high, found.low);
    };
    const auto of_a = key(a.tokens, a.mask);
    BOOST_TEST((of_a == key(a.tokens, a.mask)));
    BOOST_TEST((of_a == key(a.tokens, {1, 0, 1, 1})));  // nothing predicts the first token
    std::vector<std::pair<std::uint64_t, std::uint64_t>> others{key(b.tokens, b.mask),
                                                                key(a.tokens, {0, 0, 0, 1}),
                                                                key(a.tokens, {0, 1, 1, 1}),
                                                                key({2, 1, 3, 4}, a.mask),
                                                                key({1, 2, 3}, {0, 0, 1}),
                                                                key({1, 2, 3, 4, 0}, {0, 0, 1, 1, 0}),
                                                                key({0, 1, 2, 3, 4}, {0, 0, 0, 1, 1}),
                                                                key({}, {})};
    for (const auto& other : others) {
        BOOST_TEST(other.first != of_a.first);
        BOOST_TEST(other.second != of_a.second);
    }
}

BOOST_AUTO_TEST_CASE(counts_are_of_every_target_and_rows_of_the_pool) {
    const Sample no_labels{{5, 6}, {1, 0}}, empty{{}, {}};
    const std::vector<std::vector<Sample>> pool{{c, a, no_labels, empty}, {b, a, empty}, {d, no_labels, b}};
    const std::vector<std::vector<Sample>> targets{{a, c, a, empty}, {no_labels}, {b, {{4, 4}, {0, 1}}, a}};
    for (const int ranks : {1, 2, 3, 5}) {
        const auto found = overlap_of(pool, targets, ranks);
        BOOST_TEST((found.pool_rows == std::vector<std::int64_t>{0, 1, 4, 5, 9}));
        BOOST_TEST_REQUIRE(found.tasks.size() == 3U);
        BOOST_TEST((found.tasks[0].pool_rows == 3 && found.tasks[0].target_rows == 3));
        BOOST_TEST((found.tasks[1].pool_rows == 0 && found.tasks[1].target_rows == 0));
        BOOST_TEST((found.tasks[2].pool_rows == 4 && found.tasks[2].target_rows == 2));
        BOOST_TEST(found.repeated == 2);  // a and b once more
    }
    const auto none = overlap_of({{a, b}, {d}}, {{c}}, 2);
    BOOST_TEST((none.pool_rows.empty() && none.tasks[0].pool_rows == 0 && none.repeated == 0));
}

BOOST_AUTO_TEST_SUITE_END()
