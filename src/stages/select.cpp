// Stage 6, select: all ranks on their rows of influence; the selection is the same on every rank. What of a result it
// decides: weights, picks, and how the weights came about.

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <variant>

#include "datasets.hpp"
#include "equal_influence.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/selection/members.hpp"
#include "rated_pool.hpp"

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
    const auto datasets = weight_datasets(pool_rows);
    datasets.create(writer);
    constexpr std::int64_t block_rows = std::int64_t{1} << 20;
    auto next = chosen.begin();
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        std::vector<float> weights(static_cast<std::size_t>(rows.count), 0.0F);
        for (; next != chosen.end() && next->first < rows.end(); ++next)
            weights[static_cast<std::size_t>(next->first - rows.first)] = next->second;
        datasets.fill(writer, rows, weights);
    }
}

/// Ids of the picks, in their order, on every rank: each reads those among its rows in the order of the file, and the
/// ranks' rows follow each other.
std::vector<std::string> ids_of(comm::Communicator& comm, const std::vector<selection::Pick>& picks, RowRange mine,
                                const data::ReadIds& read_ids) {
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

/// Those of an earlier selection by another rule are removed.
void write_figures(io::ResultWriter& writer, const selection::Selection& selection) {
    const auto is_written = [&](const std::string& name) {
        return std::any_of(selection.figures.begin(), selection.figures.end(),
                           [&](const selection::Figure& figure) { return figure.name == name; });
    };
    for (const auto& member : selection::members()) {
        if (member.figures == nullptr) continue;
        for (const auto& name : member.figures())
            if (!is_written(name)) writer.remove_attribute(name);
    }
    for (const auto& figure : selection.figures)
        std::visit([&](auto value) { writer.attribute(figure.name, value); }, figure.value);
}

}  // namespace

selection::Selection select(comm::Communicator& comm, const selection::Selector& selector, const RatedPool& pool) {
    const auto influence = to_choose_by(comm, pool);
    const auto request = selector.request(pool.facts);
    if (influence.equal)
        say(comm,
            "warning: all influences are equal, to within rounding: they tell no sample from another. A rule that goes "
            "by them takes samples in the order of the pool, with equal weights. Look at pool and targets.");
    auto selection = selector.choose(comm, influence, pool.facts, request);
    if (!selection.report.empty()) say(comm, selection.report);
    return selection;
}

void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     const RatedPool& pool) {
    const auto pool_rows = pool.facts.rows();
    const auto mine = data::shard_of(pool_rows, comm.rank(), comm.size());
    write_weights(writer, selection, pool_rows, mine);
    Selected selected;
    for (const auto& pick : selection.picks) {
        selected.index.push_back(pick.row);
        selected.column.push_back(pick.column);
    }
    const auto samples = std::ssize(selected.index);
    selected.ids = ids_of(comm, selection.picks, mine, pool.read_ids);
    selected.weight = weights_of(selection, pool_rows, static_cast<double>(samples));
    selected_datasets(samples, io::longest_of(selected.ids)).write(writer, selected);
    writer.attribute("selected_tokens", selection.tokens);
    write_figures(writer, selection);
}

}  // namespace idistill::stages
