// Which rows are left out, with the reason, and what has no usable sample.

#include <set>

#include "corpora.hpp"
#include "failure_of.hpp"
#include "idistill/plan/usable_rows.hpp"

using namespace idistill;
using namespace idistill::plan;
using namespace idistill::test;

namespace {

const std::vector<TaskFile> two_tasks{{"a", "a.h5"}, {"b", "b.h5"}};
const auto three_targets = corpus({{9, 3}, {8, 2}, {7, 1}});

/// A pool of one file that was not cut; of the targets two thirds are task a.
UsableRows usable(const data::CorpusIndex& pool, const data::CorpusIndex& targets = three_targets) {
    const auto first = targets.size() - targets.size() / 3;
    return usable_rows({pool, {{pool.size(), 0}}}, {targets, {{first, 0}, {targets.size() - first, 0}}}, two_tasks);
}

std::uint64_t hash_of(const UsableRows& rows) {
    Hash hash;
    rows.add_to(hash);
    return hash.value();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_usable_rows)

BOOST_AUTO_TEST_CASE(rows_without_tokens_or_labels_are_quarantined_with_the_reason) {
    const auto pool = corpus({{9, 3}, {0, 0}, {5, 0}, {16, 0}, {16, 2}, {1, 0}, {16, 0}});
    const auto targets = corpus({{9, 3}, {0, 0}, {8, 0}});
    // the pool's last two rows come from a file that was not cut
    const CorpusShape shape{pool, {{5, 16}, {2, 0}}};
    const auto rows = usable_rows(shape, {targets, {{3, 8}}}, {{"a", "a.h5"}});
    using enum QuarantineReason;
    const std::vector<Quarantined> expected{
        {1, empty}, {2, no_labels}, {3, no_labels_after_truncation}, {5, no_labels}, {6, no_labels}};
    BOOST_TEST((rows.pool_quarantine == expected));
    BOOST_TEST((rows.target_quarantine == std::vector<Quarantined>{{1, empty}, {2, no_labels_after_truncation}}));
    BOOST_TEST((rows.eligible == std::vector<std::uint8_t>{1, 0, 0, 0, 1, 0, 0}));
    BOOST_TEST((rows.is_eligible(0) && !rows.is_eligible(3) && rows.eligible_rows == 2));
    BOOST_TEST((rows.target_rows == std::vector<std::int64_t>{0}));
    BOOST_TEST((rows.pool_rows == 7 && rows.tasks == 1 && rows.longest == 16 && rows.most_labels == 3));
    BOOST_TEST((eligible_in(rows, {0, 7}) == std::vector<std::int64_t>{0, 4}));
    BOOST_TEST((eligible_in(rows, {1, 4}) == std::vector<std::int64_t>{4} && eligible_in(rows, {5, 2}).empty()));

    const auto alone = usable_pool(shape);
    BOOST_TEST((alone.pool_quarantine == expected && alone.eligible == rows.eligible && alone.eligible_rows == 2));
    BOOST_TEST((alone.tasks == 0 && alone.target_rows.empty() && alone.longest == 16 && alone.most_labels == 3));
}

BOOST_AUTO_TEST_CASE(rows_that_a_target_has_too_are_left_out_where_that_is_asked_for) {
    const auto pool = corpus({{9, 3}, {5, 0}, {16, 2}, {7, 7}});
    CorpusShape shape{pool, {{4, 0}}};
    using enum QuarantineReason;
    shape.left_out = {{0, of_a_target}, {1, of_a_target}, {3, of_a_target}, {3, too_long_to_rate}};
    const auto rows = usable_pool(shape);
    BOOST_TEST((rows.pool_quarantine == std::vector<Quarantined>{{0, of_a_target}, {1, no_labels}, {3, of_a_target}}));
    BOOST_TEST((rows.eligible == std::vector<std::uint8_t>{0, 0, 1, 0} && rows.longest == 16));
    shape.left_out = {{0, of_a_target}, {2, of_a_target}, {3, of_a_target}};
    const auto none = failure_of(ExitCode::bad_input, [&] { usable_pool(shape); });
    BOOST_TEST((contains(none.found, "3 also of a target") && contains(none.remedy, "--drop-overlap")));
    shape.left_out = {{0, too_long_to_rate}, {2, too_long_to_rate}, {3, too_long_to_rate}};
    const auto unrated = failure_of(ExitCode::bad_input, [&] { usable_pool(shape); });
    BOOST_TEST((contains(unrated.found, "3 too long to be rated") && contains(unrated.remedy, "reads more tokens")));
    // The remedy is for what most of them have, and row 1 has no labels.
    shape.left_out = {{0, of_a_target}, {2, too_long_to_join}, {3, too_long_to_join}};
    const auto mixed = failure_of(ExitCode::bad_input, [&] { usable_pool(shape); });
    BOOST_TEST((contains(mixed.remedy, "--max-context") && !contains(mixed.remedy, "--drop-overlap")));
}

BOOST_AUTO_TEST_CASE(a_target_without_usable_samples_says_why) {
    const CorpusShape pool{three_targets, {{3, 0}}};
    CorpusShape targets{three_targets, {{1, 0}, {2, 0}}};
    targets.left_out = {{1, QuarantineReason::too_long_to_join}, {2, QuarantineReason::too_long_to_join}};
    const auto failure = failure_of(ExitCode::bad_input, [&] {
        usable_rows(pool, targets, {{"a", "a.h5"}, {"b", "b.h5"}});
    });
    BOOST_TEST((failure.where == "b.h5" && contains(failure.found, "2 too long to be joined to others")));
    BOOST_TEST((contains(failure.remedy, "--max-context") && contains(failure.remedy, "leave the target out")));
}

BOOST_AUTO_TEST_CASE(reasons_have_words) {
    using enum QuarantineReason;
    BOOST_TEST(to_string(of_a_target) == "also of a target");
    BOOST_TEST((to_string(empty) == "empty" && to_string(no_labels) == "no label tokens"));
    BOOST_TEST((to_string(no_labels_after_truncation) == "no label tokens after truncation" &&
                to_string(non_finite) == "not finite"));
    BOOST_TEST(counted({{1, no_labels}, {2, empty}, {3, empty}}) == "2 empty, 1 no label tokens");
    BOOST_TEST(counted({}) == "no samples");
}

BOOST_AUTO_TEST_CASE(targets_keep_the_order_of_their_files) {
    const auto rows = usable(good_pool(9), corpus({{9, 3}, {8, 0}, {7, 1}}));
    BOOST_TEST((rows.target_rows == std::vector<std::int64_t>{0, 2} && rows.tasks == 2));
    BOOST_TEST((rows.target_task == std::vector<std::int32_t>{0, 1}));
    BOOST_TEST((usable(good_pool(9)).target_task == std::vector<std::int32_t>{0, 0, 1}));
}

BOOST_AUTO_TEST_CASE(a_task_or_a_pool_without_a_usable_sample_is_an_error) {
    const auto task = failure_of(ExitCode::bad_input, [] { usable(good_pool(9), corpus({{9, 3}, {8, 2}, {7, 0}})); });
    BOOST_TEST((task.field == "target b" && task.where == "b.h5"));
    const auto nothing = corpus({{5, 0}, {0, 0}, {4, 0}});
    const auto pool = failure_of(ExitCode::bad_input, [&] { usable(nothing); });
    BOOST_TEST((contains(pool.found, "1 empty") && contains(pool.found, "2 no label tokens")));
    BOOST_TEST(failure_of(ExitCode::bad_input, [&] { usable_pool({nothing, {{3, 0}}}); }).found == pool.found);
    failure_of(ExitCode::bad_input, [] { usable(corpus({})); });
    const auto none = failure_of(ExitCode::bad_input, [] {
        const auto index = good_pool(4);
        const auto no_targets = corpus({});
        usable_rows({index, {{4, 0}}}, {no_targets, {{0, 0}, {0, 0}}}, two_tasks);
    });
    BOOST_TEST(none.field == "target a");
}

BOOST_AUTO_TEST_CASE(rows_of_the_files_must_be_those_of_the_index) {
    const auto pool = good_pool(9);
    const CorpusShape targets{three_targets, {{2, 0}, {1, 0}}};
    const CorpusShape short_pool{pool, {{8, 0}}};
    BOOST_TEST(failure_of(ExitCode::internal_error, [&] { usable_rows(short_pool, targets, two_tasks); }).field ==
               "pool");
    failure_of(ExitCode::internal_error, [&] { usable_pool(short_pool); });
    BOOST_TEST(failure_of(ExitCode::internal_error, [&] {
                   usable_rows({pool, {{9, 0}}}, {three_targets, {{2, 0}, {2, 0}}}, two_tasks);
               }).field == "targets");
}

BOOST_AUTO_TEST_CASE(the_hash_follows_every_row) {
    std::set<std::uint64_t> hashes{hash_of(usable(good_pool(60)))};
    const auto differs = [&hashes](const UsableRows& rows) { return hashes.insert(hash_of(rows)).second; };
    BOOST_TEST(!differs(usable(good_pool(60))));
    BOOST_TEST(differs(usable(good_pool(61))));
    BOOST_TEST(differs(usable(good_pool(60), corpus({{9, 3}, {8, 0}, {7, 1}}))));   // one quarantined
    BOOST_TEST(differs(usable(good_pool(60), corpus({{9, 3}, {0, 0}, {7, 1}}))));   // for another reason
    BOOST_TEST(differs(usable(good_pool(60), corpus({{9, 4}, {8, 2}, {7, 1}}))));   // the most labels
    BOOST_TEST(differs(usable(good_pool(60), corpus({{10, 3}, {8, 2}, {7, 1}}))));  // the longest
    auto pool = good_pool(60);
    pool.labels[7] = 0;
    BOOST_TEST(differs(usable(pool)));
    auto rows = usable(good_pool(60));
    rows.target_task[1] = 1;
    BOOST_TEST(differs(rows));
}

BOOST_AUTO_TEST_SUITE_END()
