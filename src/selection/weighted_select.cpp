// From influence rows to the weighted problem, and from its weights to a selection.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "idistill/selection/weighted.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t read_bytes = std::int64_t{8} << 20;

WeightedProblem read_problem(const Shard& shard, const Request& request, const std::vector<double>& curvature) {
    WeightedProblem problem;
    problem.pool_rows = static_cast<std::int64_t>(request.eligible.size());
    problem.block_rows = weight_block_rows(problem.pool_rows);
    problem.curvature = curvature;
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
            if (!std::all_of(influence.begin(), influence.end(), [](float x) { return std::isfinite(x); })) continue;
            problem.row.push_back(shard.first_row + done + i);
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
    const auto problem = read_problem(shard, request, weighted.curvature);
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
    for (const auto& one : all) {
        selection.picks.push_back({one.row, -1});
        selection.weight.push_back(one.weight);
        selection.tokens += request.tokens[static_cast<std::size_t>(one.row)];
    }
    return selection;
}

}  // namespace idistill::selection
