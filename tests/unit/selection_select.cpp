// Selections at several rank counts against a reference that sorts everything.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "idistill/base/error.hpp"
#include "idistill/base/philox.hpp"
#include "idistill/comm/thread_group.hpp"
#include "idistill/selection/selection.hpp"
#include "idistill/selection/task_means.hpp"

using namespace idistill;
using selection::Budget;
using selection::Request;
using selection::Rule;
using selection::Selection;

namespace {

const float not_a_number = std::numeric_limits<float>::quiet_NaN();

struct Pool {
    std::int64_t rows = 0;
    std::vector<std::int32_t> column_task;
    std::int32_t tasks = 1;
    std::vector<float> influence;
    std::vector<std::uint8_t> eligible;
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> source;
    std::map<std::int32_t, std::int64_t> caps;

    [[nodiscard]] std::size_t columns() const { return column_task.size(); }
    [[nodiscard]] float at(std::int64_t row, std::size_t column) const {
        return influence[static_cast<std::size_t>(row) * columns() + column];
    }
    [[nodiscard]] Request request(Rule rule, Budget budget) const {
        Request request;
        request.rule = rule;
        request.budget = budget;
        request.column_task = column_task;
        request.tasks = tasks;
        request.eligible = eligible;
        request.tokens = tokens;
        request.source = source;
        request.source_cap = caps;
        return request;
    }
};

/// Values from a few levels, so that ties abound; some rows ineligible, some with a NaN or an infinity.
Pool random_pool(unsigned seed, std::int64_t rows, std::vector<std::int32_t> column_task, std::int32_t tasks,
                 int levels) {
    std::mt19937 random(seed);
    const auto below = [&random](int bound) { return static_cast<int>(random() % static_cast<unsigned>(bound)); };
    Pool pool{.rows = rows,
              .column_task = std::move(column_task),
              .tasks = tasks,
              .influence = {},
              .eligible = {},
              .tokens = {},
              .source = {},
              .caps = {}};
    for (std::int64_t row = 0; row < rows; ++row) {
        pool.eligible.push_back(below(10) != 0);
        pool.tokens.push_back(1 + below(50));
        pool.source.push_back(below(4));
        const int poison = below(12);
        for (std::size_t column = 0; column < pool.columns(); ++column) {
            const float value = static_cast<float>(below(levels) - levels / 2) / 8.0F;
            pool.influence.push_back(value == 0.0F && below(2) == 0 ? -0.0F : value);
        }
        if (poison == 0)
            pool.influence[pool.influence.size() - 1 - static_cast<std::size_t>(below(2)) % pool.columns()] =
                not_a_number;
        if (poison == 1) pool.influence.back() = std::numeric_limits<float>::infinity();
    }
    return pool;
}

bool is_candidate(const Pool& pool, std::int64_t row) {
    bool candidate = pool.eligible[static_cast<std::size_t>(row)] != 0;
    for (std::size_t column = 0; column < pool.columns(); ++column)
        candidate = candidate && std::isfinite(pool.at(row, column));
    return candidate;
}

/// Straightforward: whole lists, sorted; whole-list search in every turn.
class Reference {
public:
    Reference(const Pool& pool, const Request& request) : pool_(pool), request_(request) {
        std::vector<std::int64_t> rows;
        for (std::int64_t row = 0; row < pool.rows; ++row) {
            if (is_candidate(pool, row)) rows.push_back(row);
        }
        if (request.rule == Rule::round_robin) {
            std::size_t longest = 0;
            std::vector<std::vector<std::int32_t>> of_task(static_cast<std::size_t>(pool.tasks));
            for (std::size_t c = 0; c < pool.columns(); ++c) {
                auto& columns = of_task[static_cast<std::size_t>(pool.column_task[c])];
                columns.push_back(static_cast<std::int32_t>(c));
                longest = std::max(longest, columns.size());
            }
            for (std::size_t i = 0; i < longest; ++i) {
                for (const auto& columns : of_task) {
                    if (i < columns.size()) columns_.push_back(columns[i]);
                }
            }
            for (const std::int32_t c : columns_) {
                lists_.push_back(
                    sorted(rows, [&](std::int64_t row) { return double{pool.at(row, static_cast<std::size_t>(c))}; }));
            }
        } else {
            columns_ = {-1};
            lists_ = {sorted(rows, [&](std::int64_t row) { return value(row); })};
        }
    }

    [[nodiscard]] Selection run(std::int64_t samples) const {
        Selection selection;
        std::set<std::int64_t> taken;
        std::map<std::int32_t, std::int64_t> used;
        for (std::size_t turn = 0; static_cast<std::int64_t>(selection.picks.size()) < samples; ++turn) {
            const std::size_t list = turn % lists_.size();
            const auto free = [&](std::int64_t row) {
                const std::int32_t source = pool_.source[static_cast<std::size_t>(row)];
                const auto cap = pool_.caps.find(source);
                return !taken.contains(row) && (cap == pool_.caps.end() || used[source] < cap->second);
            };
            const auto best = std::find_if(lists_[list].begin(), lists_[list].end(), free);
            if (best == lists_[list].end()) break;
            const std::int32_t tokens = pool_.tokens[static_cast<std::size_t>(*best)];
            if (request_.budget.tokens && selection.tokens + tokens > *request_.budget.tokens) break;
            taken.insert(*best);
            ++used[pool_.source[static_cast<std::size_t>(*best)]];
            selection.tokens += tokens;
            selection.picks.push_back({*best, columns_[list]});
        }
        return selection;
    }

private:
    template <class Value>
    static std::vector<std::int64_t> sorted(std::vector<std::int64_t> rows, const Value& value) {
        std::stable_sort(rows.begin(), rows.end(), [&](std::int64_t a, std::int64_t b) { return value(a) > value(b); });
        return rows;
    }

    [[nodiscard]] double value(std::int64_t row) const {
        if (request_.rule == Rule::random) {
            const auto words = Philox(request_.seed, "selection", "random").words(static_cast<std::uint64_t>(row), 0);
            return static_cast<double>(words[0]) * 2097152.0 + (words[1] >> 11U);
        }
        double sum = 0.0;
        double best = -1e300;
        for (std::int32_t task = 0; task < pool_.tasks; ++task) {
            double task_sum = 0.0;
            double count = 0.0;
            for (std::size_t c = 0; c < pool_.columns(); ++c) {
                if (pool_.column_task[c] == task) task_sum += double{pool_.at(row, c)}, count += 1.0;
            }
            sum += task_sum / count;
            best = std::max(best, task_sum / count);
        }
        return request_.top_k_by_maximum ? best : sum / pool_.tasks;
    }

    const Pool& pool_;
    const Request& request_;
    std::vector<std::int32_t> columns_;
    std::vector<std::vector<std::int64_t>> lists_;
};

/// Contiguous shares of unequal size; where there are several ranks one of them has no rows.
std::vector<std::int64_t> boundaries(std::int64_t rows, int ranks) {
    std::vector<std::int64_t> first(static_cast<std::size_t>(ranks) + 1, rows);
    for (int rank = 0; rank < ranks; ++rank)
        first[static_cast<std::size_t>(rank)] = rows * rank * rank / (ranks * ranks);
    if (ranks > 1) first[1] = first[static_cast<std::size_t>(ranks > 2 ? 2 : 0)];
    return first;
}

Selection run_on(const Pool& pool, const Request& request, int ranks) {
    const auto first = boundaries(pool.rows, ranks);
    std::vector<Selection> results(static_cast<std::size_t>(ranks));
    comm::run_ranks_as_threads(ranks, [&](comm::Communicator& communicator) {
        const auto rank = static_cast<std::size_t>(communicator.rank());
        selection::Shard shard;
        shard.first_row = first[rank];
        shard.rows = first[rank + 1] - first[rank];
        shard.columns = static_cast<std::int64_t>(pool.columns());
        shard.read = [&, rank](std::int64_t row, std::int64_t count, std::span<float> out) {
            if (row < first[rank] || row + count > first[rank + 1]) throw std::out_of_range("rows of another rank");
            std::copy_n(pool.influence.begin() + row * shard.columns, count * shard.columns, out.begin());
        };
        results[rank] = selection::select(communicator, shard, request);
    });
    for (const Selection& other : results) {
        BOOST_TEST(other.tokens == results[0].tokens);
        BOOST_TEST(std::equal(other.picks.begin(), other.picks.end(), results[0].picks.begin(), results[0].picks.end(),
                              [](auto a, auto b) { return a.row == b.row && a.column == b.column; }));
    }
    return results[0];
}

void check_equal(const Selection& found, const Selection& expected) {
    BOOST_TEST(found.tokens == expected.tokens);
    BOOST_TEST_REQUIRE(found.picks.size() == expected.picks.size());
    for (std::size_t i = 0; i < found.picks.size(); ++i) {
        BOOST_TEST_REQUIRE(found.picks[i].row == expected.picks[i].row,
                           "pick " << i << ": row " << found.picks[i].row << ", expected " << expected.picks[i].row);
        BOOST_TEST_REQUIRE(found.picks[i].column == expected.picks[i].column);
    }
}

void check_everywhere(const Pool& pool, const Request& request, std::int64_t samples) {
    const auto expected = Reference(pool, request).run(samples);
    for (const int ranks : {1, 2, 3, 5}) {
        BOOST_TEST_CONTEXT("ranks " << ranks << ", samples " << samples)
        check_equal(run_on(pool, request, ranks), expected);
    }
}

Budget samples(std::int64_t count) { return {.samples = count, .tokens = {}}; }
Budget tokens(std::int64_t count) { return {.samples = {}, .tokens = count}; }

std::int64_t available(const Pool& pool) {
    std::map<std::int32_t, std::int64_t> counts;
    for (std::int64_t row = 0; row < pool.rows; ++row)
        counts[pool.source[static_cast<std::size_t>(row)]] += is_candidate(pool, row);
    std::int64_t sum = 0;
    for (const auto& [source, count] : counts) {
        const auto cap = pool.caps.find(source);
        sum += cap == pool.caps.end() ? count : std::min(count, cap->second);
    }
    return sum;
}

const std::vector<std::int32_t> seven_columns = {0, 0, 1, 2, 0, 2, 0};

Failure usage_failure(const Pool& pool, const Request& request, int ranks) {
    try {
        run_on(pool, request, ranks);
    } catch (const Error& error) {
        BOOST_TEST((error.code() == ExitCode::usage));
        return error.failure();
    }
    BOOST_FAIL("no error");
    return {};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(selection_select)

BOOST_AUTO_TEST_CASE(tasks_are_interleaved) {
    const auto order = selection::interleave_tasks(seven_columns, 3);
    const std::vector<std::int32_t> expected = {0, 2, 3, 1, 5, 4, 6};
    BOOST_TEST(order == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(task_means_add_in_column_order_in_double_precision) {
    const selection::TaskMeans means({1, 0, 1, 1}, 3);
    std::vector<double> found(3, 7.0);
    const std::vector<float> row = {1e8F, 0.5F, 1.0F, -1e8F};  // in single precision the 1 is lost
    means(row, found);
    BOOST_TEST(found[0] == 0.5);
    BOOST_TEST(found[1] == 1.0 / 3.0);
    BOOST_TEST(std::isnan(found[2]));
}

BOOST_AUTO_TEST_CASE(every_rule_equals_sorting_everything) {
    for (const unsigned seed : {1U, 2U, 3U}) {
        for (const int levels : {3, 1000}) {
            for (const auto& column_task : {std::vector<std::int32_t>{0}, seven_columns}) {
                const auto pool = random_pool(seed, 300, column_task, column_task.size() == 1 ? 1 : 3, levels);
                for (const auto rule : {Rule::round_robin, Rule::top_k, Rule::random}) {
                    for (const std::int64_t k : {std::int64_t{1}, std::int64_t{40}, available(pool)}) {
                        auto request = pool.request(rule, samples(k));
                        check_everywhere(pool, request, k);
                        request.top_k_by_maximum = true;
                        if (rule == Rule::top_k) check_everywhere(pool, request, k);
                    }
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(caps_hold_and_the_rest_is_filled_up) {
    for (const unsigned seed : {4U, 5U}) {
        auto pool = random_pool(seed, 400, seven_columns, 3, 20);
        pool.caps = {{0, 7}, {2, 0}, {3, 1000}};
        for (const auto rule : {Rule::round_robin, Rule::top_k, Rule::random}) {
            for (const std::int64_t k : {std::int64_t{30}, available(pool)})
                check_everywhere(pool, pool.request(rule, samples(k)), k);
        }
    }
}

BOOST_AUTO_TEST_CASE(token_budgets_stop_before_the_first_that_does_not_fit) {
    auto pool = random_pool(6, 400, seven_columns, 3, 20);
    for (const bool capped : {false, true}) {
        if (capped) pool.caps = {{1, 5}};
        for (const std::int64_t budget : {60, 1000, 5000, 1000000}) {
            for (const auto rule : {Rule::round_robin, Rule::top_k, Rule::random}) {
                check_everywhere(pool, pool.request(rule, tokens(budget)), available(pool));
            }
        }
    }
    const auto all = run_on(pool, pool.request(Rule::round_robin, tokens(1000000)), 2);
    BOOST_TEST(static_cast<std::int64_t>(all.picks.size()) == available(pool));
}

// Equal columns want the same rows: heads of k / M rows run out again and again. The best rows all lie on the last
// rank.
BOOST_AUTO_TEST_CASE(heads_that_run_out_are_extended) {
    auto pool = random_pool(7, 3000, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 10, 5);
    for (std::int64_t row = 0; row < pool.rows; ++row) {
        for (std::size_t c = 0; c < 10; ++c)
            pool.influence[static_cast<std::size_t>(row) * 10 + c] = static_cast<float>(row / 3);
        pool.tokens[static_cast<std::size_t>(row)] = row < 2000 ? 5000 : 1;
    }
    check_everywhere(pool, pool.request(Rule::round_robin, samples(1500)), 1500);
    check_everywhere(pool, pool.request(Rule::round_robin, tokens(100000)), pool.rows);
    pool.caps = {{0, 3}, {1, 3}};
    check_everywhere(pool, pool.request(Rule::round_robin, samples(1000)), 1000);
}

BOOST_AUTO_TEST_CASE(more_rows_than_one_block) {
    const auto pool = random_pool(8, 30000, std::vector<std::int32_t>(100, 0), 1, 100000);
    const auto request = pool.request(Rule::round_robin, samples(500));
    check_equal(run_on(pool, request, 2), Reference(pool, request).run(500));
}

BOOST_AUTO_TEST_CASE(a_pool_of_one_row) {
    auto pool = random_pool(10, 1, {0, 0, 1}, 2, 9);
    pool.eligible = {1};
    pool.influence = {0.5F, -0.0F, 0.25F};
    for (const auto rule : {Rule::round_robin, Rule::top_k, Rule::random})
        check_everywhere(pool, pool.request(rule, samples(1)), 1);
}

BOOST_AUTO_TEST_CASE(asking_for_more_than_there_is_says_how_many_there_are) {
    auto pool = random_pool(11, 200, seven_columns, 3, 9);
    for (const bool capped : {false, true}) {
        if (capped) pool.caps = {{0, 2}};
        const auto most = available(pool);
        for (const auto rule : {Rule::round_robin, Rule::top_k, Rule::random}) {
            for (const int ranks : {1, 3}) {
                const auto failure = usage_failure(pool, pool.request(rule, samples(most + 1)), ranks);
                BOOST_TEST(failure.found ==
                           std::to_string(most + 1) + " asked for, " + std::to_string(most) + " eligible");
            }
        }
    }
    std::fill(pool.influence.begin(), pool.influence.end(), not_a_number);
    const auto failure = usage_failure(pool, pool.request(Rule::round_robin, tokens(100)), 2);
    BOOST_TEST(failure.found == "1 asked for, 0 eligible");
    BOOST_TEST(failure.remedy.find("No sample has a finite influence") == 0U);
}

BOOST_AUTO_TEST_CASE(at_most_takes_what_there_is) {
    auto pool = random_pool(13, 200, seven_columns, 3, 9);
    pool.caps = {{0, 2}};
    const auto most = available(pool);
    for (const auto rule : {Rule::round_robin, Rule::top_k}) {
        for (const std::int64_t wanted : {std::int64_t{20}, most, most + 1, std::int64_t{100000}}) {
            const Budget budget{.samples = wanted, .tokens = {}, .at_most = true};
            check_everywhere(pool, pool.request(rule, budget), std::min(wanted, most));
        }
    }
    std::fill(pool.influence.begin(), pool.influence.end(), not_a_number);
    const Budget budget{.samples = 5, .tokens = {}, .at_most = true};
    BOOST_TEST(run_on(pool, pool.request(Rule::round_robin, budget), 3).picks.empty());
}

BOOST_AUTO_TEST_CASE(senseless_budgets_are_usage_errors) {
    auto pool = random_pool(12, 20, {0}, 1, 9);
    BOOST_TEST(usage_failure(pool, pool.request(Rule::top_k, samples(0)), 2).field == "samples");
    BOOST_TEST(usage_failure(pool, pool.request(Rule::top_k, {.samples = 1, .tokens = 1}), 1).field == "budget");
    BOOST_TEST(usage_failure(pool, pool.request(Rule::top_k, Budget{}), 1).field == "budget");
    std::fill(pool.tokens.begin(), pool.tokens.end(), 30);
    BOOST_TEST(usage_failure(pool, pool.request(Rule::round_robin, tokens(29)), 2).field == "tokens");
}

BOOST_AUTO_TEST_SUITE_END()
