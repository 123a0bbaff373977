// What of a result a selection decides: weights, picks, and how the weights came about.

#include <algorithm>
#include <numeric>
#include <utility>

#include "idistill/data/work_unit.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

using data::RowRange;

/// The picks' weights with sum `total`: those of the selection, or equal ones.
std::vector<float> weights_of(const selection::Selection& selection, std::int64_t pool_rows, double total) {
    const double share = total / static_cast<double>(pool_rows);
    std::vector<float> weights;
    for (const double weight : selection.weight) weights.push_back(static_cast<float>(weight * share));
    if (weights.empty())
        weights.assign(selection.picks.size(), static_cast<float>(total / static_cast<double>(selection.picks.size())));
    return weights;
}

void write_weights(io::ResultWriter& writer, const selection::Selection& selection, std::int64_t pool_rows,
                   RowRange mine) {
    const auto weight = weights_of(selection, pool_rows, static_cast<double>(pool_rows));
    std::vector<std::pair<std::int64_t, float>> chosen;
    for (std::size_t i = 0; i < weight.size(); ++i)
        if (const auto row = selection.picks[i].row; row >= mine.first && row < mine.end())
            chosen.emplace_back(row, weight[i]);
    std::sort(chosen.begin(), chosen.end());
    writer.create<float>("/weight", pool_rows);
    constexpr std::int64_t block_rows = std::int64_t{1} << 20;
    auto next = chosen.begin();
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        std::vector<float> weights(static_cast<std::size_t>(rows.count), 0.0F);
        for (; next != chosen.end() && next->first < rows.end(); ++next)
            weights[static_cast<std::size_t>(next->first - rows.first)] = next->second;
        writer.write<float>("/weight", rows, weights);
    }
}

/// Ids of the picks, in their order, on every rank: each reads those among its rows in the order of the file, and the
/// ranks' rows follow each other.
std::vector<std::string> ids_of(comm::Communicator& comm, const std::vector<selection::Pick>& picks, RowRange mine,
                                const ReadIds& read_ids) {
    std::vector<std::size_t> by_row(picks.size());
    std::iota(by_row.begin(), by_row.end(), std::size_t{0});
    std::sort(by_row.begin(), by_row.end(), [&](std::size_t a, std::size_t b) { return picks[a].row < picks[b].row; });
    std::string text;
    for (const auto i : by_row) {
        if (picks[i].row < mine.first || picks[i].row >= mine.end()) continue;
        const auto id = read_ids({picks[i].row, 1}).front();
        text.append(id.c_str(), id.size() + 1);
    }
    std::vector<std::string> ids(picks.size());
    auto pick = by_row.begin();
    for (const auto& part : comm.all_gather<char>(text)) {
        for (auto begin = part.begin(); begin != part.end();) {
            const auto end = std::find(begin, part.end(), '\0');
            ids[*pick++].assign(begin, end);
            begin = end + 1;
        }
    }
    return ids;
}

/// Attributes weights_*; those of an earlier selection are removed where there is no report.
void write_weight_report(io::ResultWriter& writer, const selection::Selection& selection) {
    if (!selection.report) {
        for (const char* name : {"lambda", "threshold", "objective", "gap", "support", "reachable", "iterations",
                                 "clipped", "at_largest", "full_sources", "learning_rate"})
            writer.remove_attribute(std::string("weights_") + name);
        return;
    }
    const auto& report = *selection.report;
    writer.attribute("weights_lambda", report.lambda);
    writer.attribute("weights_learning_rate", report.learning_rate);
    writer.attribute("weights_threshold", report.threshold);
    writer.attribute("weights_objective", report.objective);
    writer.attribute("weights_gap", report.gap);
    writer.attribute("weights_support", report.support);
    writer.attribute("weights_reachable", report.reachable);
    writer.attribute("weights_iterations", report.iterations);
    writer.attribute("weights_clipped", report.clipped);
    writer.attribute("weights_at_largest", report.largest);
    writer.attribute("weights_full_sources", static_cast<std::int64_t>(report.full.size()));
}

}  // namespace

void plan_selection(plan::Plan& plan, std::int64_t pool_rows, std::int64_t selected, std::int64_t longest_id) {
    plan.result.push_back({"/weight", pool_rows, 4.0});
    plan.result.push_back({"/selected/index", selected, 8.0});
    plan.result.push_back({"/selected/id", selected, static_cast<double>(longest_id)});
    plan.result.push_back({"/selected/weight", selected, 4.0});
    plan.result.push_back({"/selected/column", selected, 4.0});
}

void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     const RatedPool& pool) {
    const auto pool_rows = pool.facts.rows();
    const auto mine = data::shard_of(pool_rows, comm.rank(), comm.size());
    write_weights(writer, selection, pool_rows, mine);
    std::vector<std::int64_t> index;
    std::vector<std::int32_t> column;
    for (const auto& pick : selection.picks) {
        index.push_back(pick.row);
        column.push_back(pick.column);
    }
    writer.small<std::int64_t>("/selected/index", index);
    writer.strings("/selected/id", ids_of(comm, selection.picks, mine, pool.read_ids));
    writer.small<float>("/selected/weight", weights_of(selection, pool_rows, static_cast<double>(index.size())));
    writer.small<std::int32_t>("/selected/column", column);
    writer.attribute("selected_tokens", selection.tokens);
    write_weight_report(writer, selection);
}

}  // namespace idistill::stages
