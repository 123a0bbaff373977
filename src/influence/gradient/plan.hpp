#pragma once
// What the gradient influence (Influence Distillation, arXiv 2505.19051) decides and plans before the model is loaded.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/influence/gradient/cost.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/influence/influence.hpp"

namespace idistill::influence {

/// Names of its stages and their datasets in the state.
namespace gradient_state {
inline constexpr const char* targets = "targets";
inline constexpr const char* directions = "directions";
inline constexpr const char* curvature = "curvature";
inline constexpr const char* columns = "columns";  ///< no stage: what is made of the others
inline constexpr const char* norm = "norm";
inline constexpr const char* sketch = "sketch";
inline constexpr const char* step = "step";
inline constexpr const char* sum = "sum";
inline constexpr const char* product = "product";
}  // namespace gradient_state

/// Dataset of the result that has the curvature's factor F (N x its columns).
inline constexpr const char* factor_dataset = "/curvature/factor";

/// One of several models that an influence has gradients of.
struct GradientPart {
    std::string suffix = {};                  ///< of the names of its stages, " 2"
    bool first = true;                        ///< says what holds for all of them
    GradientKind kind = GradientKind::plain;  ///< of the pool's gradients
};
/// Names of the stages of several parts, and of what follows them: they end before the columns are used.
std::vector<std::string> gradient_steps(const std::vector<std::string>& suffixes);

/// What is decided before the model is loaded. Targets, and behind them the samples of --contrast, have places; the
/// contrast counts as one more task.
struct GradientPlan {
    std::vector<model::LinearLayer> layers;   ///< the chosen ones
    bool contracts = false;                   ///< products with whole directions in place of sketches
    std::string suffix;                       ///< of its stages' names
    GradientKind kind = GradientKind::plain;  ///< of the pool's gradients: a step goes along what they make
    SketchShape sketch;                       ///< width 0 with contraction
    std::int64_t tasks = 0;
    std::vector<std::int64_t> target_rows;  ///< (M)
    std::vector<std::int32_t> target_task;  ///< (M)
    /// (R) pool rows that stand for the pool in --contrast: the first of a seeded permutation of the eligible ones, not
    /// that of the landmarks.
    std::vector<std::int64_t> contrast_rows;
    std::int64_t curvature_columns = 0;  ///< r with --curvature hessian
    std::int64_t step_products = 0;  ///< 1 where targets are multiplied with the optimizer's constant step b, else 0
    std::int64_t parameters = 0;     ///< entries of the chosen layers, where directions are kept whole
    std::int64_t pieces = 1;         ///< rows of a direction in the state, the last filled up with zeros
    std::int64_t piece_width = 0;

    [[nodiscard]] std::string stage(const char* name) const { return name + suffix; }
    [[nodiscard]] bool preconditioned() const { return kind != GradientKind::plain; }
    [[nodiscard]] std::int64_t targets() const { return std::ssize(target_rows); }
    [[nodiscard]] std::int64_t places() const { return targets() + std::ssize(contrast_rows); }
    [[nodiscard]] std::int64_t task_of(std::int64_t place) const {
        return place < targets() ? target_task[static_cast<std::size_t>(place)] : tasks;
    }
};

/// Stages, needs and datasets, and what they follow from, of the gradient influence.
GradientPlan plan_gradients(const options::Values& values, model::Planner& planner, const Wanted& wanted);
/// The same of one part; `steps`: those of all parts (gradient_steps), over which sketches of the targets are held.
/// Adds none of them to planner.earlier.
GradientPlan plan_gradients(const options::Values& values, model::Planner& planner, const Wanted& wanted,
                            const GradientPart& part, const std::vector<std::string>& steps);
/// Held by a gradient pass of its largest micro-batch.
plan::PassBytes pass_bytes(const GradientSettings& settings, const GradientPlan& plan, const model::ModelConfig& model,
                           const plan::Batch& batch);
/// Planned FLOPs of exact influence of a pool row.
double exact_flops(const GradientPlan& plan, const GradientCost& cost, const Layout& layout,
                   const data::CorpusIndex& pool, std::int64_t row);

}  // namespace idistill::influence
