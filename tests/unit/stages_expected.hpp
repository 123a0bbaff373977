#pragma once
// What a run on the small folder should find, by closed form.

#include <fmt/format.h>

#include <array>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <numeric>
#include <set>

#include "idistill/base/seeded_permutation.hpp"
#include "small_runs.hpp"

namespace stages_test {

using namespace idistill;
using namespace idistill::test;
using comm::run_ranks_as_threads;

inline constexpr std::array rank_counts{1, 2, 3, 5};
inline constexpr std::int64_t pool_rows = 97;
inline constexpr double small_units = 40.0;  // planned cost: a few samples
inline const std::vector<std::int64_t> kept{0, 2, 3, 4};
inline const std::vector<std::int32_t> column_task{0, 0, 1, 1};

inline const Words exactly{"--propagation", "none", "--selection", "round-robin", "--select", "7"};
inline const Words propagated{"--landmarks", "30", "--selection", "round-robin", "--select", "7"};
inline const Words refined = joined(propagated, {"--refine", "2"});

// --- what a run should find -----------------------------------------------------------------------------------------

/// Rows of the pool whose numbers a row of the result has: its own, its nearest landmark's, or none.
using Origins = std::vector<std::optional<std::int64_t>>;
using Rows = std::vector<std::int64_t>;

inline bool contains(const Rows& rows, std::int64_t row) {
    return std::find(rows.begin(), rows.end(), row) != rows.end();
}

inline Origins own_origins(std::int64_t rows) {
    Origins origins(static_cast<std::size_t>(rows));
    for (std::int64_t row = 0; row < rows; ++row)
        if (!is_quarantined(row)) origins[static_cast<std::size_t>(row)] = row;
    return origins;
}

inline std::int64_t nearest_landmark(std::int64_t row, const Rows& landmarks) {
    std::optional<std::pair<std::int64_t, std::int64_t>> best;
    for (const auto landmark : landmarks) {
        if (is_not_finite(landmark)) continue;
        const std::pair candidate(std::abs(tokens_of(landmark) - tokens_of(row)), landmark);
        if (!best || candidate < *best) best = candidate;
    }
    return best.value().second;
}

inline Origins propagated_origins(std::int64_t rows, const Rows& landmarks, const Rows& refined_rows) {
    auto origins = own_origins(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
        auto& origin = origins[static_cast<std::size_t>(row)];
        if (is_unusable(row)) origin.reset();
        if (origin && !contains(landmarks, row) && !contains(refined_rows, row))
            origin = nearest_landmark(row, landmarks);
    }
    return origins;
}

inline bool is_finite(const std::optional<std::int64_t>& origin) { return origin && !is_not_finite(*origin); }

/// Rows that the columns pick by turns, the best first, of those that have finite influence.
inline std::vector<selection::Pick> picks_by_turns(const Origins& origins, const Rows& left_out, std::int64_t count) {
    std::set<std::int64_t> taken(left_out.begin(), left_out.end());
    std::vector<selection::Pick> picks;
    for (std::size_t turn = 0; std::ssize(picks) < count; ++turn) {
        const auto column = std::array{0, 2, 1, 3}.at(turn % 4);  // first of each task, then second
        std::optional<std::int64_t> best;
        const auto value = [&](std::int64_t row) {
            return influence_of(*origins[static_cast<std::size_t>(row)], kept[static_cast<std::size_t>(column)]);
        };
        for (std::int64_t row = 0; row < std::ssize(origins); ++row)
            if (is_finite(origins[static_cast<std::size_t>(row)]) && !taken.contains(row) &&
                (!best || value(row) > value(*best)))
                best = row;
        picks.push_back({best.value(), column});
        taken.insert(*best);
    }
    return picks;
}

/// Weights with sum N that optimise the mean over the columns less their spread: what lies above the next best.
inline std::vector<double> optimal_weights(const Origins& origins, std::size_t count) {
    std::vector<std::pair<double, std::size_t>> means;
    for (std::size_t row = 0; row < origins.size(); ++row) {
        if (!is_finite(origins[row])) continue;
        double sum = 0.0;
        for (const auto target : kept) sum += static_cast<double>(influence_of(*origins[row], target));
        means.emplace_back(sum / 4.0, row);
    }
    std::sort(means.rbegin(), means.rend());
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += means[i].first - means[count].first;
    std::vector<double> weights(origins.size(), 0.0);
    for (std::size_t i = 0; i < count; ++i)
        weights[means[i].second] = static_cast<double>(origins.size()) * (means[i].first - means[count].first) / sum;
    return weights;
}

inline bool same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b; }

/// Checks what the result says of every row of the pool; `computed`: those whose own influence it has.
inline void check_rows(const io::ResultReader& result, const Origins& origins,
                       const std::function<bool(std::int64_t)>& computed) {
    const auto rows = std::ssize(origins);
    const auto influence = result.read<float>("/influence"), score = result.read<float>("/score");
    const auto size = result.read<float>(size_dataset), extra = result.read<float>(extra_dataset);
    const auto spread = result.read<float>(spread_dataset);
    const auto exact = result.read<std::uint8_t>("/exact");
    const auto tokens = result.read<std::int32_t>("/tokens"), source = result.read<std::int32_t>("/source/index");
    const auto ids = result.read_strings("/id");
    BOOST_TEST_REQUIRE(std::ssize(influence) == rows * 4);
    BOOST_TEST_REQUIRE(std::ssize(score) == rows * 2);
    BOOST_TEST_REQUIRE(std::ssize(size) == rows);
    BOOST_TEST_REQUIRE(std::ssize(extra) == rows * extra_width);
    BOOST_TEST_REQUIRE(std::ssize(spread) == rows * spread_width);
    BOOST_TEST(result.width(size_dataset) == 0);  // of one number: a vector
    std::string wrong;
    Rows listed;
    std::vector<std::string> reasons;
    for (std::int64_t row = 0; row < rows; ++row) {
        const auto i = static_cast<std::size_t>(row);
        const auto& origin = origins[i];
        const bool finite = is_finite(origin);
        const auto expect = [&](bool holds, const char* what) {
            if (!holds) wrong += fmt::format("{} of row {}; ", what, row);
        };
        const auto of = [&](std::int64_t target) { return finite ? influence_of(*origin, target) : unknown; };
        for (std::size_t c = 0; c < kept.size(); ++c) expect(same(influence[i * 4 + c], of(kept[c])), "influence");
        for (std::int64_t c = 0; c < extra_width; ++c)
            expect(same(extra[i * extra_width + static_cast<std::size_t>(c)], finite ? extra_of(*origin, c) : unknown),
                   "extra");
        expect(same(size[i], origin ? size_of(*origin) : unknown), "size");
        for (std::int64_t c = 0; c < spread_width; ++c)
            expect(
                same(spread[i * spread_width + static_cast<std::size_t>(c)], origin ? spread_of(*origin, c) : unknown),
                "spread");
        expect(same(score[i * 2], (of(0) + of(2)) / 2.0F) && same(score[i * 2 + 1], (of(3) + of(4)) / 2.0F), "score");
        expect(exact[i] == (finite && computed(row) ? 1 : 0), "exact");
        expect(tokens[i] == tokens_of(row) && source[i] == row % 3, "tokens or source");
        expect(ids[i] == "sample " + std::to_string(row), "id");
        if (finite) continue;
        listed.push_back(row);
        reasons.emplace_back(is_empty(row)                        ? "empty"
                             : !has_no_labels(row)                ? "not finite"
                             : tokens_of(row) == small_max_length ? "no label tokens after truncation"
                                                                  : "no label tokens");
    }
    BOOST_TEST(wrong == "");
    BOOST_TEST(result.read<std::int64_t>("/quarantine/index") == listed, boost::test_tools::per_element());
    BOOST_TEST(result.read_strings("/quarantine/reason") == reasons, boost::test_tools::per_element());
}

inline void check_picks(const io::ResultReader& result, const std::vector<selection::Pick>& picks) {
    std::vector<float> weights(static_cast<std::size_t>(result.row_count("/influence")), 0.0F);
    Rows rows;
    std::vector<std::int32_t> columns;
    std::vector<std::string> ids;
    std::int64_t tokens = 0;
    for (const auto& pick : picks) {
        rows.push_back(pick.row);
        columns.push_back(pick.column);
        ids.push_back("sample " + std::to_string(pick.row));
        tokens += tokens_of(pick.row);
        weights[static_cast<std::size_t>(pick.row)] =
            static_cast<float>(static_cast<double>(weights.size()) / static_cast<double>(picks.size()));
    }
    BOOST_TEST(result.read<std::int64_t>("/selected/index") == rows, boost::test_tools::per_element());
    BOOST_TEST(result.read<std::int32_t>("/selected/column") == columns, boost::test_tools::per_element());
    BOOST_TEST(result.read_strings("/selected/id") == ids, boost::test_tools::per_element());
    BOOST_TEST(result.read<float>("/weight") == weights, boost::test_tools::per_element());
    BOOST_TEST(result.attribute("selected_tokens") == std::to_string(tokens));
}

/// What a result says beside the pool's rows: columns, tasks and targets that were left out.
inline void check_columns(const io::ResultReader& result) {
    BOOST_TEST((result.read<std::int32_t>("/column/task") == column_task));
    BOOST_TEST((result.read<std::int64_t>("/column/target") == kept));
    BOOST_TEST((result.read_strings("/column/name") ==
                std::vector<std::string>{"code.h51", "code.h53", "maths.h50", "maths.h51"}));
    BOOST_TEST((result.read_strings("/task/name") == std::vector<std::string>{"code", "maths"}));
    BOOST_TEST((result.read<std::int64_t>("/target_quarantine/index") == Rows{0, 2}));
    BOOST_TEST((result.read_strings("/target_quarantine/reason") ==
                std::vector<std::string>{"no label tokens", "not finite"}));
}

inline void check_landmarks(const io::ResultReader& result, const Rows& landmarks) {
    BOOST_TEST(result.read<std::int64_t>("/landmark/index") == landmarks, boost::test_tools::per_element());
    const auto influence = result.read<float>("/landmark/influence"), loo = result.read<float>("/landmark/loo");
    BOOST_TEST_REQUIRE(influence.size() == landmarks.size() * 4);
    std::string wrong;
    for (std::size_t i = 0; i < landmarks.size(); ++i) {
        for (std::size_t c = 0; c < 4; ++c) {
            const bool finite = !is_not_finite(landmarks[i]) || c != 1;
            const float expected = finite ? influence_of(landmarks[i], kept[c]) : unknown;
            if (!same(influence[i * 4 + c], expected) || !same(loo[i * 4 + c], expected + 1.0F))
                wrong += fmt::format("landmark {}; ", landmarks[i]);
        }
    }
    BOOST_TEST(wrong == "");
}

inline Rows landmarks_of(std::int64_t rows, std::int64_t count) {
    std::vector<std::uint8_t> eligible;
    for (std::int64_t row = 0; row < rows; ++row) eligible.push_back(is_quarantined(row) ? 0 : 1);
    return first_of_permutation(eligible, 43, "landmarks", count);
}

inline Rows sorted_rows(std::vector<selection::Pick> picks) {
    Rows rows;
    for (const auto& pick : picks) rows.push_back(pick.row);
    std::sort(rows.begin(), rows.end());
    return rows;
}

// --- runs -----------------------------------------------------------------------------------------------------------

/// Runs with every number of ranks; their results must be the same. Gives the path of one.
inline std::string run_on_all(const SmallFolder& folder, const Words& words, double unit_flops) {
    const auto name = [&](int ranks) { return folder / ("ranks" + std::to_string(ranks) + ".h5"); };
    for (const int ranks : rank_counts) {
        Script script;
        run_on_threads(ranks, small_values(folder, name(ranks), words, unit_flops), script);
        BOOST_TEST(differing(contents_of(name(ranks)), contents_of(name(1))) == "", ranks << " ranks");
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".state"));
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".lock"));
        BOOST_TEST(!std::filesystem::exists(name(ranks) + ".partial"));
    }
    return name(1);
}

}  // namespace stages_test
