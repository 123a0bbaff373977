// Between stages 5 and 6, refine: the samples that are predicted best get exact influence, in units claimed by any
// rank; rows of the state in order of the pool. Which they are follows from the finished propagation alone, so that a
// restarted run finds the same ones. Predictions stay in the state; readers put the refined rows in their place.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "labels.hpp"
#include "result_rows.hpp"
#include "shortlist.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

/// Rows of the shortlist, by what is in the state. Landmarks are exact already; among shrunken predictions they would
/// take most of its places. Collective.
std::vector<std::int64_t> shortlist(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                                    double factor) {
    const auto mine = data::shard_of(run.inputs.plan.pool_rows, run.comm.rank(), run.comm.size());
    auto request = refinable_request(run, targets);
    auto predicted = run.inputs.plan.eligible;
    for (const auto& [row, place] : landmarks.place) predicted[static_cast<std::size_t>(row)] = 0;
    request.eligible = predicted;
    turn_into_shortlist(request, config::shortlist_size(run.inputs.plan, factor), factor);
    const selection::Shard shard{mine.first, mine.count, targets.columns(),
                                 [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                                     read_influence(run, targets.columns(), {first, count}, out);
                                 }};
    std::vector<std::int64_t> rows;
    for (const auto& pick : selection::select(run.comm, shard, request).picks) rows.push_back(pick.row);
    std::sort(rows.begin(), rows.end());
    return rows;
}

/// The rows to refine that are in a unit.
std::vector<std::int64_t> rows_of(const Refinement& refinement, const data::RowRange& range) {
    const auto count = std::ssize(refinement.rows);
    return {refinement.rows.begin() + std::min(count, range.first),
            refinement.rows.begin() + std::min(count, range.end())};
}

/// The plan's units with what their rows cost, now that these are known: expensive ones are claimed first.
std::vector<data::WorkUnit> units_with_costs(const Run& run, const Refinement& refinement) {
    const auto& plan = run.inputs.plan;
    const config::CostModel cost(run.inputs.model, run.settings);
    auto units = plan.refine_units;
    for (auto& unit : units) {
        unit.flops = 0.0;
        for (const auto row : rows_of(refinement, unit.rows))
            unit.flops += config::exact_flops(plan, cost, run.settings, run.inputs.pool.index(), row);
    }
    return units;
}

/// Calls take(place in rows, value) with the refined rows among `rows` of one column of the state, of `width` numbers.
template <class Take>
void for_each_refined(const Run& run, std::size_t column, std::int64_t width, data::RowRange rows, Take take) {
    if (run.refinement == nullptr) return;
    const auto& refined = run.refinement->rows;
    const auto begin = std::lower_bound(refined.begin(), refined.end(), rows.first);
    const auto end = std::lower_bound(begin, refined.end(), rows.end());
    if (begin == end) return;
    std::vector<float> values(static_cast<std::size_t>((end - begin) * width));
    run.state.read(refined_rows, column, {begin - refined.begin(), end - begin}, values);
    for (auto row = begin; row != end; ++row)
        take(*row - rows.first, std::span(values).subspan(static_cast<std::size_t>((row - begin) * width),
                                                          static_cast<std::size_t>(width)));
}

}  // namespace

Refinement refine(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                  const Propagation& propagation) {
    const auto& plan = run.inputs.plan;
    Refinement refinement;
    refinement.factor = refine_factor(run, targets, landmarks, propagation);
    refinement.rows = shortlist(run, targets, landmarks, refinement.factor);

    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto rows = rows_of(refinement, unit.rows);
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.stored_columns()}, std::numeric_limits<float>::quiet_NaN());
        if (!rows.empty()) {
            const auto exact = exact_rows(run, targets, run.inputs.pool.read(rows));
            norm.narrow(0, 0, std::ssize(rows)).copy_(exact.norm);
            influence.narrow(0, 0, std::ssize(rows)).copy_(widen(exact.influence, plan.stored_columns()));
        }
        return {norm, influence};
    };
    const auto work = [&](const data::WorkUnit& unit) {
        const auto rows = rows_of(refinement, unit.rows);
        Work work{std::ssize(rows), 0, unit.flops};
        for (const auto row : rows) work.tokens += run.inputs.pool.index().tokens[static_cast<std::size_t>(row)];
        return work;
    };
    const auto units = units_with_costs(run, refinement);
    do_units(run, {refined_rows, "refine", &units, work, compute});
    return refinement;
}

void read_influence(const Run& run, std::int64_t columns, data::RowRange rows, std::span<float> out) {
    const auto stored = run.inputs.plan.stored_columns();
    read_influence(run.state, stored, columns, rows, out);
    for_each_refined(run, 1, stored, rows, [&](std::int64_t place, std::span<const float> values) {
        std::copy_n(values.begin(), columns, out.begin() + place * columns);
    });
}

void read_norm(const Run& run, data::RowRange rows, std::span<float> out) {
    run.state.read(pool_rows, 0, rows, out);
    for_each_refined(run, 0, 1, rows, [&](std::int64_t place, std::span<const float> values) {
        out[static_cast<std::size_t>(place)] = values.front();
    });
}

}  // namespace idistill::stages
