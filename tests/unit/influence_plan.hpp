#pragma once
// Plans of the gradient influence for a small model.

#include <algorithm>
#include <boost/test/unit_test.hpp>

#include "../../src/influence/gradient/plan.hpp"
#include "planning.hpp"
#include "sketch_kinds.hpp"

namespace influence_test {

using namespace idistill;
using namespace idistill::influence;
using namespace idistill::test;
using options::ColumnKind, options::InputSettings, options::Values;

inline constexpr std::int64_t direction_piece = std::int64_t{1} << 20;  // of a row of the state

/// Two tasks, short sketches, no contrast.
inline Values small_values() {
    Values values;
    values.of<InputSettings>().targets = {{"a", "a.h5"}, {"b", "b.h5"}};
    values.of<GradientSettings>().contrast = 0;
    values.of<GradientSettings>().sketch_dim = 12;
    return values;
}

inline Values values_by_task() {
    auto values = small_values();
    values.of<InputSettings>().columns = ColumnKind::tasks;
    return values;
}

inline const Wanted contraction{.whole_pool = true};
inline const Wanted factor{.curvature_columns = true};

inline GradientCost cost_of(const Planning& planning, const Values& values, const GradientPlan& plan) {
    return {planning.model, plan.layers, values.of<GradientSettings>().sketch, plan.sketch};
}

/// Numbers of what is called so that are held in a stage, for settings that differ by some change, on a model and
/// corpora of the test.
inline double numbers(const Values& values, const Wanted& wanted, const std::string& what, const std::string& stage,
                      Planning& planning) {
    planning.plan = {};
    plan_gradients(values, planning.planner, wanted);
    return bytes_held(planning.plan, what, stage) / 4.0;
}

/// Bytes of the small model's gradient pass, of the chosen layers' kind in all blocks.
inline double pass_of(const Planning& planning, const plan::Batch& batch) {
    return model::gradient_activation_bytes(planning.model, 0, batch, batch.labels);
}

/// The targets 9, 8 and 7 tokens long, of which the last predicts nothing: two units, {8 + 7} and {6}.
inline const plan::Batch target_batch{.rows = 2, .tokens = 15, .samples = 2, .labels = 5, .longest = 8};

inline bool has(const plan::Plan& plan, const std::string& what) {
    return std::any_of(plan.needs.begin(), plan.needs.end(), [&](const auto& need) { return need.what == what; });
}

}  // namespace influence_test
