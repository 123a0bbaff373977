#include "stage_units.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

namespace idistill::config {
namespace {

constexpr double direction_units_per_task = 8.0;
constexpr double curvature_units = 64.0;

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

/// The kind of the pool's gradients: a step goes along them times the optimizer's factors.
GradientKind pool_kind(const Settings& settings) {
    return settings.optimizer.empty() ? GradientKind::plain : GradientKind::preconditioned;
}

/// Planned FLOPs of the places [first, end): `of` their lengths and kind.
template <class Cost>
std::vector<double> labelled_flops(const Plan& plan, const Settings& settings, const CorpusShape& pool,
                                   const CorpusShape& targets, std::int64_t first, std::int64_t end, Cost of) {
    std::vector<double> flops;
    for (auto place = first; place < end; ++place) {
        const auto i = static_cast<std::size_t>(place);
        const auto kept = plan.target_rows.size();
        const bool of_pool = i >= kept;
        const auto [tokens, labels] = of_pool ? length_of(pool.index, plan.contrast_rows[i - kept])
                                              : length_of(targets.index, plan.target_rows[i]);
        flops.push_back(of(tokens, labels, of_pool ? pool_kind(settings) : GradientKind::plain));
    }
    return flops;
}

void cut_targets(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                 const CorpusShape& targets) {
    const bool contracts = contracts_with_tasks(settings);
    const auto flops = labelled_flops(plan, settings, pool, targets, 0, plan.labelled(),
                                      [&](std::int64_t tokens, std::int64_t labels, GradientKind kind) {
                                          return contracts ? cost.contraction(tokens, labels, 0, kind)
                                                           : cost.gradient(tokens, labels, kind);
                                      });
    plan.target_units = data::cut_units(flops, settings.unit_flops, unit_rows, task_borders(plan));
}

void cut_directions(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                    const CorpusShape& targets) {
    const auto borders = task_borders(plan);
    for (std::size_t task = 0; task + 1 < borders.size(); ++task) {
        const auto flops = labelled_flops(
            plan, settings, pool, targets, borders[task], borders[task + 1],
            [&](std::int64_t tokens, std::int64_t labels, GradientKind) { return cost.gradient_sum(tokens, labels); });
        const double share = std::accumulate(flops.begin(), flops.end(), 0.0) / direction_units_per_task;
        const auto any_rows = static_cast<std::int64_t>(flops.size());
        for (auto unit : data::cut_units(flops, std::max(settings.unit_flops, share), any_rows)) {
            unit.rows.first += borders[task];
            plan.direction_units.push_back(unit);
        }
    }
}

void cut_curvature(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                   const CorpusShape& targets) {
    const auto flops = labelled_flops(
        plan, settings, pool, targets, 0, std::ssize(plan.target_rows),
        [&](std::int64_t tokens, std::int64_t labels, GradientKind) { return cost.hessian_product(tokens, labels); });
    const double share = std::accumulate(flops.begin(), flops.end(), 0.0) / curvature_units;
    plan.curvature_units =
        data::cut_units(flops, std::max(settings.unit_flops, share), static_cast<std::int64_t>(flops.size()));
}

double embedding_flops(const CostModel& cost, const data::CorpusIndex& pool, std::int64_t row) {
    const auto i = static_cast<std::size_t>(row);
    return cost.embedding(pool.tokens[i], pool.labels[i]);
}

void cut_landmarks(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    std::vector<double> flops;
    for (const std::int64_t row : plan.landmarks) {
        flops.push_back(exact_flops(plan, cost, settings, pool, row) + embedding_flops(cost, pool, row));
    }
    plan.landmark_units = data::cut_units(flops, settings.unit_flops, unit_rows, plan.landmark_counts);
}

/// Rows of a unit whose embeddings and columns take at most 64 MiB: those of a file cost hardly a FLOP.
std::int64_t propagated_rows(const Plan& plan) {
    const auto row_bytes = std::int64_t{sizeof(float)} * (plan.embedding_width + plan.stored_columns());
    return std::clamp<std::int64_t>((std::int64_t{64} << 20) / row_bytes, 1, unit_rows);
}

void cut_pool(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    const auto landmarks = static_cast<std::int64_t>(plan.landmarks.size());
    std::vector<double> flops(plan.eligible.size(), 0.0);
    for (std::size_t row = 0; row < flops.size(); ++row) {
        if (plan.eligible[row] == 0) continue;
        const auto index = static_cast<std::int64_t>(row);
        flops[row] = landmarks > 0
                         ? embedding_flops(cost, pool, index) + cost.propagation(landmarks, plan.stored_columns())
                         : exact_flops(plan, cost, settings, pool, index);
    }
    plan.pool_units = data::cut_units(flops, settings.unit_flops, propagated_rows(plan));
}

/// Samples of the budget, as refine_budget wants it.
std::int64_t budget_samples(const Plan& plan, const Settings& settings, const data::CorpusIndex& pool) {
    if (settings.select_percent) return selected_count(*settings.select_percent, plan.pool_rows);
    if (settings.select_samples) return *settings.select_samples;
    double tokens = 0.0;
    double rows = 0.0;
    for (std::size_t row = 0; row < plan.eligible.size(); ++row) {
        if (plan.eligible[row] == 0) continue;
        tokens += static_cast<double>(pool.tokens[row]);
        rows += 1.0;
    }
    const double bought = std::min(1.0, static_cast<double>(settings.select_tokens.value_or(1)) / tokens) * rows;
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(bought + 0.5)));
}

void cut_refinement(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    if (!refines(settings)) return;
    plan.refine_budget = budget_samples(plan, settings, pool);
    double flops = 0.0;
    std::int64_t eligible = 0;
    for (std::size_t row = 0; row < plan.eligible.size(); ++row) {
        if (plan.eligible[row] == 0) continue;
        flops += exact_flops(plan, cost, settings, pool, static_cast<std::int64_t>(row));
        ++eligible;
    }
    const double mean = flops / static_cast<double>(eligible);
    const auto open = eligible - (plan.landmark_counts.empty() ? 0 : plan.landmark_counts.front());
    const auto rows = std::min(open, shortlist_size(plan, settings.refine.value_or(refine_factors.back())));
    const std::vector<double> equal(static_cast<std::size_t>(rows), mean);
    plan.refine_units = data::cut_units(equal, settings.unit_flops, unit_rows);
}

}  // namespace

bool refines(const Settings& settings) {
    return settings.propagation != "none" && settings.selection != "random" && !leaves_number_open(settings) &&
           settings.refine != 0.0;
}

std::int64_t shortlist_size(const Plan& plan, double factor) {
    const double wanted = std::floor(factor * static_cast<double>(plan.refine_budget) + 0.5);
    return wanted < static_cast<double>(plan.pool_rows) ? static_cast<std::int64_t>(wanted) : plan.pool_rows;
}

double exact_flops(const Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool,
                   std::int64_t row) {
    const auto [tokens, labels] = length_of(pool, row);
    const auto kind = pool_kind(settings);
    if (contracts_with_tasks(settings)) return cost.contraction(tokens, labels, plan.stored_columns(), kind);
    return cost.gradient(tokens, labels, kind) + cost.scores(plan.stored_columns());
}

void cut_stages(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                const CorpusShape& targets) {
    cut_targets(plan, cost, settings, pool, targets);
    if (contracts_with_tasks(settings)) cut_directions(plan, cost, settings, pool, targets);
    if (uses_hessian(settings)) cut_curvature(plan, cost, settings, pool, targets);
    cut_landmarks(plan, cost, settings, pool.index);
    cut_pool(plan, cost, settings, pool.index);
    cut_refinement(plan, cost, settings, pool.index);
}

void cut_embedding(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool) {
    std::vector<double> flops(plan.eligible.size(), 0.0);
    for (std::size_t row = 0; row < flops.size(); ++row)
        if (plan.eligible[row] != 0) flops[row] = embedding_flops(cost, pool, static_cast<std::int64_t>(row));
    plan.pool_units = data::cut_units(flops, settings.unit_flops, unit_rows);
}

}  // namespace idistill::config
