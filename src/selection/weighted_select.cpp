// From influence rows to the weighted problem, and from its weights to a selection.

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "idistill/base/finite.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::selection {
namespace {

/// Sources with a share, as the groups of the problem.
struct SourceGroups {
    static constexpr std::int32_t no_weight = -2;
    std::vector<std::int32_t> source;            ///< (groups) those whose share is a limit
    std::map<std::int32_t, std::int32_t> group;  ///< their groups by source; no_weight: its samples get none

    explicit SourceGroups(const std::map<std::int32_t, double>& shares) {
        for (const auto& [of, share] : shares) {
            if (share >= 1.0) continue;
            group[of] = share > 0.0 ? static_cast<std::int32_t>(source.size()) : no_weight;
            if (share > 0.0) source.push_back(of);
        }
    }
    /// -1: in no group
    [[nodiscard]] std::int32_t of(std::int32_t a_source) const {
        const auto found = group.find(a_source);
        return found == group.end() ? -1 : found->second;
    }
};

struct ReadProblem {
    WeightedProblem problem;
    std::vector<double> offset;  ///< (n; empty: 0) what its influence is less by at eta = 1
};

ReadProblem read_problem(const Shard& shard, const Request& request, const WeightedRequest& weighted,
                         const SourceGroups& groups) {
    ReadProblem read;
    auto& problem = read.problem;
    problem.pool_rows = static_cast<std::int64_t>(request.eligible.size());
    problem.block_rows = weight_block_rows(problem.pool_rows);
    const auto& curvature = problem.curvature = weighted.curvature;
    problem.largest = weighted.largest;
    for (const auto source : groups.source)
        problem.group_most.push_back(weighted.source_share.at(source) * static_cast<double>(problem.pool_rows));
    const auto columns = static_cast<std::size_t>(shard.columns);
    const auto of_influence = static_cast<std::ptrdiff_t>(shard.columns - weighted.factor_columns);
    const auto before_factor = weighted.factor_columns > 0 ? of_influence : 0;
    const auto eligible = request.eligible.subspan(static_cast<std::size_t>(shard.first_row));
    const auto most = static_cast<std::size_t>(
        std::count(eligible.begin(), eligible.begin() + static_cast<std::ptrdiff_t>(shard.rows), std::uint8_t{1}));
    problem.row.reserve(most);
    problem.influence.reserve(most);
    if (!curvature.empty()) problem.factor.reserve(most * curvature.size());
    const std::int64_t block = std::max<std::int64_t>(1, read_block_bytes / (4 * shard.columns));
    std::vector<float> rows(static_cast<std::size_t>(std::min(block, shard.rows)) * columns);
    for (std::int64_t done = 0; done < shard.rows; done += block) {
        const std::int64_t count = std::min(block, shard.rows - done);
        shard.read(shard.first_row + done, count, std::span(rows).first(static_cast<std::size_t>(count) * columns));
        for (std::int64_t i = 0; i < count; ++i) {
            const auto influence = std::span<const float>(rows).subspan(static_cast<std::size_t>(i) * columns, columns);
            if (eligible[static_cast<std::size_t>(done + i)] == 0) continue;
            const auto row = shard.first_row + done + i;
            const auto group = groups.of(request.source[static_cast<std::size_t>(row)]);
            if (group == SourceGroups::no_weight) continue;
            if (!all_finite(influence)) continue;
            problem.row.push_back(row);
            if (!groups.source.empty()) problem.group.push_back(group);
            problem.influence.push_back(std::accumulate(influence.begin(), influence.begin() + of_influence, 0.0) /
                                        static_cast<double>(of_influence));
            if (!weighted.offset.empty()) read.offset.push_back(0.0);
            for (std::size_t c = 0; c < weighted.offset.size(); ++c)
                read.offset.back() += curvature[c] * weighted.offset[c] *
                                      static_cast<double>(influence[static_cast<std::size_t>(before_factor) + c]);
            if (!curvature.empty())
                problem.factor.insert(problem.factor.end(), influence.begin() + before_factor, influence.end());
        }
    }
    return read;
}

Weights solve(comm::Communicator& communicator, ReadProblem read, const Request& request,
              const WeightedRequest& weighted) {
    auto& [problem, offset] = read;
    if (weighted.lambda == 0.0) return equal_weights(communicator, problem, request.budget.samples.value_or(0));
    const WeightedTarget target{.count = weighted.lambda ? std::nullopt : request.budget.samples,
                                .lambda = weighted.lambda};
    if (problem.curvature.empty()) return solve_weights(communicator, problem, target);
    auto weights = solve_second_order(communicator, std::move(problem), offset, target, weighted.learning_rate);
    if (!weighted.offset.empty()) weights.report.best_learning_rate = std::numeric_limits<double>::infinity();
    return weights;
}

struct Weighed {
    double weight = 0.0;
    std::int64_t row = 0;
};

}  // namespace

Selection select_weighted(comm::Communicator& communicator, const Shard& shard, const Request& request,
                          const WeightedRequest& weighted) {
    const SourceGroups groups(weighted.source_share);
    const auto weights = solve(communicator, read_problem(shard, request, weighted, groups), request, weighted);
    std::vector<Weighed> mine;
    for (std::size_t i = 0; i < weights.row.size(); ++i) mine.push_back({weights.weight[i], weights.row[i]});
    std::vector<Weighed> all;
    for (const auto& part : communicator.all_gather(std::span<const Weighed>(mine)))
        all.insert(all.end(), part.begin(), part.end());
    std::sort(all.begin(), all.end(), [](const Weighed& a, const Weighed& b) {
        return a.weight != b.weight ? a.weight > b.weight : a.row < b.row;
    });
    Selection selection;
    selection.report = weights.report;
    for (auto& full : selection.report->full) full = groups.source[static_cast<std::size_t>(full)];
    for (const auto& one : all) {
        selection.picks.push_back({one.row, -1});
        selection.weight.push_back(one.weight);
        selection.tokens += request.tokens[static_cast<std::size_t>(one.row)];
    }
    return selection;
}

}  // namespace idistill::selection
