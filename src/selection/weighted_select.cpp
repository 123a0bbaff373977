// From influence rows to the weighted problem, and from its weights to a selection.

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "idistill/selection/weighted.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t read_bytes = std::int64_t{8} << 20;

/// Sources whose share is a limit, in order: the groups of the problem.
std::vector<std::int32_t> limited_sources(const WeightedRequest& weighted) {
    std::vector<std::int32_t> sources;
    for (const auto& [source, share] : weighted.source_share)
        if (share > 0.0 && share < 1.0) sources.push_back(source);
    return sources;
}

/// What becomes of the rows of a source.
class SourceGroups {
public:
    explicit SourceGroups(const WeightedRequest& weighted) {
        for (const auto& [source, share] : weighted.source_share)
            if (share == 0.0) group_[source] = without_weight;
        for (const auto source : limited_sources(weighted)) group_[source] = groups_++;
    }
    [[nodiscard]] bool empty() const { return groups_ == 0; }
    /// Nothing where its rows get no weight; -1 where they are in no group.
    [[nodiscard]] std::optional<std::int32_t> of(std::int32_t source) const {
        const auto found = group_.find(source);
        if (found == group_.end()) return -1;
        return found->second == without_weight ? std::nullopt : std::optional(found->second);
    }

private:
    static constexpr std::int32_t without_weight = -2;
    std::map<std::int32_t, std::int32_t> group_;
    std::int32_t groups_ = 0;
};

WeightedProblem read_problem(const Shard& shard, const Request& request, const WeightedRequest& weighted) {
    WeightedProblem problem;
    problem.pool_rows = static_cast<std::int64_t>(request.eligible.size());
    problem.block_rows = weight_block_rows(problem.pool_rows);
    const auto& curvature = problem.curvature = weighted.curvature;
    problem.largest = weighted.largest;
    for (const auto source : limited_sources(weighted))
        problem.group_most.push_back(weighted.source_share.at(source) * static_cast<double>(problem.pool_rows));
    const SourceGroups groups(weighted);
    const auto columns = static_cast<std::size_t>(shard.columns);
    const auto eligible = request.eligible.subspan(static_cast<std::size_t>(shard.first_row));
    const auto most = static_cast<std::size_t>(
        std::count(eligible.begin(), eligible.begin() + static_cast<std::ptrdiff_t>(shard.rows), std::uint8_t{1}));
    problem.row.reserve(most);
    problem.influence.reserve(most);
    if (!curvature.empty()) problem.factor.reserve(most * columns);
    const std::int64_t block = std::max<std::int64_t>(1, read_bytes / (4 * shard.columns));
    std::vector<float> rows(static_cast<std::size_t>(std::min(block, shard.rows)) * columns);
    for (std::int64_t done = 0; done < shard.rows; done += block) {
        const std::int64_t count = std::min(block, shard.rows - done);
        shard.read(shard.first_row + done, count, std::span(rows).first(static_cast<std::size_t>(count) * columns));
        for (std::int64_t i = 0; i < count; ++i) {
            const auto influence = std::span<const float>(rows).subspan(static_cast<std::size_t>(i) * columns, columns);
            if (eligible[static_cast<std::size_t>(done + i)] == 0) continue;
            const auto row = shard.first_row + done + i;
            const auto group = weighted.source_share.empty() ? std::optional(-1)
                                                             : groups.of(request.source[static_cast<std::size_t>(row)]);
            if (!group) continue;
            if (!std::all_of(influence.begin(), influence.end(), [](float x) { return std::isfinite(x); })) continue;
            problem.row.push_back(row);
            if (!groups.empty()) problem.group.push_back(*group);
            problem.influence.push_back(std::accumulate(influence.begin(), influence.end(), 0.0) /
                                        static_cast<double>(columns));
            if (!curvature.empty()) problem.factor.insert(problem.factor.end(), influence.begin(), influence.end());
        }
    }
    return problem;
}

struct Weighed {
    double weight = 0.0;
    std::int64_t row = 0;
};

}  // namespace

Selection select_weighted(comm::Communicator& communicator, const Shard& shard, const Request& request,
                          const WeightedRequest& weighted) {
    const auto problem = read_problem(shard, request, weighted);
    const bool equal = weighted.lambda && *weighted.lambda == 0.0;
    const auto weights = equal ? equal_weights(communicator, problem, request.budget.samples.value_or(0))
                         : weighted.lambda
                             ? solve_weights(communicator, problem, {.count = {}, .lambda = weighted.lambda})
                             : solve_weights(communicator, problem, {.count = request.budget.samples, .lambda = {}});
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
    const auto sources = limited_sources(weighted);
    for (std::size_t g = 0; g < sources.size(); ++g)
        if (weights.report.full[g]) selection.report->full_source.push_back(sources[g]);
    for (const auto& one : all) {
        selection.picks.push_back({one.row, -1});
        selection.weight.push_back(one.weight);
        selection.tokens += request.tokens[static_cast<std::size_t>(one.row)];
    }
    return selection;
}

}  // namespace idistill::selection
