#pragma once
// Plans of small corpora by a small model.

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "failure_of.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/influence/gradient/cost.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/settings.hpp"
#include "planning.hpp"
#include "stages/plan_run.hpp"

namespace stages_test {

using namespace idistill;
using namespace idistill::test;
using embedding::EmbeddingSettings, embedding::JvpSettings;
using influence::GradientCost, influence::GradientKind, influence::GradientSettings, influence::SketchKind;
using options::ColumnKind, options::InputSettings, options::RunSettings, options::Values;
using propagation::KernelChoice, propagation::KernelRidgeSettings, propagation::PropagationSettings;
using selection::BudgetSettings, selection::SelectionSettings, selection::WeightedSettings;
using stages::plan_embedding, stages::plan_run, stages::RunPlan;

/// Settings that fit the small model and small corpora.
inline Values small_values() {
    Values values;
    values.of<InputSettings>().model = "m";
    values.of<InputSettings>().pool = {"pool.h5"};
    values.of<InputSettings>().targets = {{"a", "a.h5"}, {"b", "b.h5"}};
    values.of<InputSettings>().out = "out.h5";
    values.of<SelectionSettings>().member = "round-robin";
    values.of<BudgetSettings>().percent = 5.0;
    values.of<PropagationSettings>().landmarks = 2;
    values.of<GradientSettings>().contrast = 0;
    values.of<GradientSettings>().sketch_dim = 12;
    values.of<EmbeddingSettings>().jvp_blocks = 2;
    return values;
}

inline void by_task(Values& values) { values.of<InputSettings>().columns = ColumnKind::tasks; }
inline void without_propagation(Values& values) { values.of<PropagationSettings>().member = "none"; }
inline void weigh(Values& values, selection::Order order) {
    values.of<SelectionSettings>().member = "weighted";
    values.of<WeightedSettings>().order = order;
}
/// Every sample exactly, on the tasks' whole gradients.
inline void contract(Values& values) {
    without_propagation(values);
    by_task(values);
}

inline const data::CorpusIndex default_targets = corpus({{9, 3}, {8, 2}, {7, 1}});

/// Two thirds of the targets are task a.
inline RunPlan plan_of(const Values& values, const data::CorpusIndex& pool,
                       const data::CorpusIndex& targets = default_targets) {
    const std::int64_t first = targets.size() - targets.size() / 3;
    return plan_run(values, small_model(), {pool, {{pool.size(), 0}}},
                    {targets, {{first, 0}, {targets.size() - first, 0}}});
}

/// Units of a stage; none where the run has no such stage.
inline std::vector<data::WorkUnit> units(const RunPlan& run, const std::string& stage) {
    const auto* found = run.plan.find(stage);
    return found == nullptr ? std::vector<data::WorkUnit>() : found->units;
}

/// FLOPs of a stage; 0 where the run has no such stage.
inline double flops(const RunPlan& run, const std::string& stage) {
    const auto* found = run.plan.find(stage);
    return found == nullptr ? 0.0 : found->flops();
}

/// What exact influence costs by these settings, by sketches or without.
inline GradientCost cost_of(const Values& values, const model::ModelConfig& model = small_model()) {
    const auto& settings = values.of<GradientSettings>();
    const bool contracts =
        values.of<PropagationSettings>().member == "none" && values.of<InputSettings>().columns == ColumnKind::tasks;
    const auto layers = model::chosen_layers(model, settings.parameters);
    return {model, layers, settings.sketch,
            contracts ? influence::SketchShape{} : influence::sketch_shape(settings, layers)};
}

/// FLOPs of the settings' embedding, which is one alone.
inline double embedding_flops(const Values& values, std::int64_t tokens, std::int64_t labels) {
    Planning planning;
    const auto embedding = embedding::make_embedding(values.of<EmbeddingSettings>().embedding, values);
    embedding->plan(planning.planner);
    return embedding->flops(tokens, labels);
}

}  // namespace stages_test
