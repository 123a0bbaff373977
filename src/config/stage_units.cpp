#include "stage_units.hpp"

#include <algorithm>
#include <numeric>
#include <span>

namespace idistill::config {
namespace {

constexpr double direction_units_per_task = 8.0;

/// Last position that matters and label tokens of a row, for the passes that depend on them.
struct Length {
    std::int64_t tokens = 0;
    std::int64_t labels = 0;
};

Length length_of(const data::CorpusIndex& index, std::int64_t row) {
    const auto i = static_cast<std::size_t>(row);
    return {index.last_label[i], index.labels[i]};
}

/// Places of target_units at which a task begins, and their number.
std::vector<std::int64_t> task_borders(const Plan& plan) {
    std::vector<std::int64_t> borders{0};
    for (std::int64_t place = 1; place < plan.labelled(); ++place) {
        if (plan.task_of(place) != plan.task_of(place - 1)) borders.push_back(place);
    }
    borders.push_back(plan.labelled());
    return borders;
}

/// Planned FLOPs of the places [first, end): `of` their lengths.
template <class Cost>
std::vector<double> labelled_flops(const Plan& plan, const CorpusShape& pool, const CorpusShape& targets,
                                   std::int64_t first, std::int64_t end, Cost of) {
    std::vector<double> flops;
    for (auto place = first; place < end; ++place) {
        const auto i = static_cast<std::size_t>(place);
        const auto kept = plan.target_rows.size();
        const auto [tokens, labels] = i < kept ? length_of(targets.index, plan.target_rows[i])
                                               : length_of(pool.index, plan.contrast_rows[i - kept]);
        flops.push_back(of(tokens, labels));
    }
    return flops;
}

void cut_targets(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                 const CorpusShape& targets) {
    const bool contracts = contracts_with_tasks(settings);
    const auto flops =
        labelled_flops(plan, pool, targets, 0, plan.labelled(), [&](std::int64_t tokens, std::int64_t labels) {
            return contracts ? cost.contraction(tokens, labels, 0) : cost.gradient(tokens, labels);
        });
    plan.target_units = data::cut_units(flops, settings.unit_flops, unit_rows, task_borders(plan));
}

void cut_directions(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                    const CorpusShape& targets) {
    const auto borders = task_borders(plan);
    for (std::size_t task = 0; task + 1 < borders.size(); ++task) {
        const auto flops =
            labelled_flops(plan, pool, targets, borders[task], borders[task + 1],
                           [&](std::int64_t tokens, std::int64_t labels) { return cost.gradient_sum(tokens, labels); });
        const double share = std::accumulate(flops.begin(), flops.end(), 0.0) / direction_units_per_task;
        const auto any_rows = static_cast<std::int64_t>(flops.size());
        for (auto unit : data::cut_units(flops, std::max(settings.unit_flops, share), any_rows)) {
            unit.rows.first += borders[task];
            plan.direction_units.push_back(unit);
        }
    }
}

/// Exact influence of a pool row on all columns.
double exact_flops(const Plan& plan, const CostModel& cost, const Settings& settings, const Length& length) {
    if (contracts_with_tasks(settings)) return cost.contraction(length.tokens, length.labels, plan.tasks);
    return cost.gradient(length.tokens, length.labels) + cost.scores(plan.columns);
}

void cut_landmarks(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    std::vector<double> flops;
    for (const std::int64_t row : plan.landmarks) {
        flops.push_back(exact_flops(plan, cost, settings, length_of(pool, row)) +
                        cost.embedding(pool.tokens[static_cast<std::size_t>(row)]));
    }
    plan.landmark_units = data::cut_units(flops, settings.unit_flops, unit_rows);
}

void cut_pool(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    const auto landmarks = static_cast<std::int64_t>(plan.landmarks.size());
    std::vector<double> flops(plan.eligible.size(), 0.0);
    for (std::size_t row = 0; row < flops.size(); ++row) {
        if (plan.eligible[row] == 0) continue;
        flops[row] = landmarks > 0 ? cost.embedding(pool.tokens[row]) + cost.propagation(landmarks, plan.columns)
                                   : exact_flops(plan, cost, settings, length_of(pool, static_cast<std::int64_t>(row)));
    }
    plan.pool_units = data::cut_units(flops, settings.unit_flops, unit_rows);
}

}  // namespace

void cut_stages(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                const CorpusShape& targets) {
    cut_targets(plan, cost, settings, pool, targets);
    if (contracts_with_tasks(settings)) cut_directions(plan, cost, settings, pool, targets);
    cut_landmarks(plan, cost, settings, pool.index);
    cut_pool(plan, cost, settings, pool.index);
}

}  // namespace idistill::config
