// Between stages 5 and 6, refine: the samples that are predicted best get exact influence, in units claimed by any
// rank; rows of the state in order of the pool. Which they are follows from the finished propagation alone, so that a
// restarted run finds the same ones. Predictions stay in the state; readers put the refined rows in their place.

#include <ATen/ATen.h>

#include <algorithm>

#include "equal_influence.hpp"
#include "pool_rows.hpp"
#include "rated_pool.hpp"
#include "shortlist.hpp"

namespace idistill::stages {
namespace {

/// Rows of the shortlist, by what is in the state. Landmarks are exact already; among shrunken predictions they would
/// take most of its places. Collective.
std::vector<std::int64_t> shortlist(const Run& run, const propagation::Landmarks& landmarks, double factor) {
    const auto& selector = *run.inputs.selector;
    const auto pool = rated_pool(run);
    auto request = selector.refinable(pool.facts, run.inputs.exact.refine_budget);
    auto predicted = run.inputs.usable.eligible;
    for (const auto& [row, place] : landmarks.place) predicted[static_cast<std::size_t>(row)] = 0;
    request.eligible = predicted;
    turn_into_shortlist(request, shortlist_size(run.inputs, factor), factor);
    const auto predictions = to_choose_by(run.work.comm, pool);
    std::vector<std::int64_t> rows;
    for (const auto& pick : selector.shortlist(run.work.comm, predictions, pool.facts, request).picks)
        rows.push_back(pick.row);
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
std::vector<data::WorkUnit> known_units(const Run& run, const Refinement& refinement) {
    const auto& index = run.inputs.pool.index();
    auto units = run.work.plan.stage(state::refine).units;
    for (auto& unit : units) {
        const auto rows = rows_of(refinement, unit.rows);
        unit.rows.count = std::ssize(rows);
        unit.flops = 0.0;
        for (const auto row : rows) {
            unit.flops += run.inputs.influence->flops(index, row);
            unit.tokens += index.tokens[static_cast<std::size_t>(row)];
        }
    }
    return units;
}

}  // namespace

Refinement refine(const Run& run, const Labels& labels) {
    Refinement refinement;
    refinement.times_budget = refine_factor(run, labels.landmarks);
    refinement.rows = shortlist(run, labels.landmarks, refinement.times_budget);
    work::do_units(
        run.work, state::refine,
        [&](const data::WorkUnit& unit) {
            return exact_unit(run, unit.rows.count, {run.inputs.pool, rows_of(refinement, unit.rows)});
        },
        work::all_places, known_units(run, refinement));
    return refinement;
}

}  // namespace idistill::stages
