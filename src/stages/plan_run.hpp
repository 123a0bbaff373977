#pragma once
// Stage 1 as a pure function of settings and sizes: no file is opened.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/options/values.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/plan/usable_rows.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/selection/selector.hpp"

namespace idistill::stages {

/// Names of the stages that belong to no member, and of their datasets in the state.
namespace state {
inline constexpr const char* landmarks = "landmarks";
inline constexpr const char* pool = "pool";
inline constexpr const char* refine = plan::refine_step;
inline constexpr const char* norm = influence::logarithms_column;
inline constexpr const char* influence = influence::products_column;
inline constexpr const char* embedding = "embedding";
inline constexpr const char* factor = "factor";
}  // namespace state

/// Which samples of the pool are computed exactly before and after the propagation.
struct ExactPlan {
    std::vector<std::int64_t> landmarks;  ///< (L) pool rows, in the order of the seeded permutation; as many as can be
    /// Numbers of landmarks to fit to, ascending, until more are not worth it (--landmarks auto); otherwise L alone.
    std::vector<std::int64_t> landmark_counts;
    /// Samples of the budget, which --refine multiplies; a token budget counts as what it buys at the mean length of
    /// the eligible samples. 0 when nothing is refined.
    std::int64_t refine_budget = 0;

    /// The landmarks at these places of their order.
    [[nodiscard]] std::vector<std::int64_t> landmarks_in(const data::RowRange& places) const {
        return {landmarks.begin() + places.first, landmarks.begin() + places.end()};
    }
};

/// The members of a run, and what they and the stages plan.
struct RunPlan {
    plan::UsableRows usable;
    std::unique_ptr<influence::Influence> influence;
    std::unique_ptr<propagation::Propagation> propagation;  ///< null: every sample is computed
    std::unique_ptr<selection::Selector> selector;
    ExactPlan exact;
    plan::Plan plan;
};

/// `targets` has one file per target of the settings, in their order. Landmarks are the first L of a seeded permutation
/// of the eligible rows (a larger L only appends). Without propagation there are none, and pool units are costed by the
/// influence. Throws Error(usage) for settings that these inputs cannot meet (more landmarks asked for than eligible
/// samples, more blocks than the model has, a sketch that does not fit the layers, a budget above what is eligible, a
/// cap on an unknown source) and Error(bad_input) for a pool or a task without a usable sample.
RunPlan plan_run(const options::Values& values, const model::ModelConfig& model, const plan::CorpusShape& pool,
                 const plan::CorpusShape& targets);

/// Propagation::factor_width(), whatever selects: a run that is continued may select otherwise.
std::int64_t factor_width(const RunPlan& run);

/// False for a run that never looks at the weights of the model.
bool reads_weights(const RunPlan& run);

/// plan_run for the members and the usable rows that `run` already has: fills its `exact` and `plan`.
void plan_members(const options::Values& values, const model::ModelConfig& model, const plan::CorpusShape& pool,
                  const plan::CorpusShape& targets, RunPlan& run);

/// What `embed` computes, of which samples, and what it needs.
struct EmbeddingPlan {
    plan::UsableRows usable;
    std::unique_ptr<embedding::Embedding> embedding;
    plan::Plan plan;
};
EmbeddingPlan plan_embedding(const options::Values& values, const model::ModelConfig& model,
                             const plan::CorpusShape& pool);

/// What is known of the pool; with column_task also of the columns. It refers to all of them.
selection::PoolFacts pool_facts(const RunPlan& plan, const data::CorpusIndex& pool,
                                std::span<const std::int32_t> column_task = {});

/// What --refine auto chooses from, in ascending order: the plan is for the last.
inline constexpr std::array<double, 6> refine_factors{2.0, 3.0, 4.0, 6.0, 8.0, 12.0};

/// Samples of a shortlist: `factor` times the plan's refine_budget, rounded, at most the pool.
std::int64_t shortlist_size(const RunPlan& plan, double factor);

}  // namespace idistill::stages
