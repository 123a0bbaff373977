#pragma once
// Stage 2, the targets: what it works on, and the columns it makes.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gradient_model.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "plan.hpp"

namespace idistill::influence {

struct GradientColumns final : Columns {
    std::vector<std::int32_t> label_tokens;  ///< (C) of the column's target samples together
    std::vector<float> norm;                 ///< (C) mean norm of their loss gradients
    std::vector<float> step_product;         ///< (C) <g_t, b> of --optimizer, normalised as sketches; empty without
    std::vector<double> curvature;           ///< (r) mu of the Hessian's decomposition; empty without
    std::vector<double> curvature_step;      ///< (r) <sqrt|mu_j| v_j, b>; empty without an optimizer
    /// (C + r x k): of the columns, normalised as --normalize says, then of sqrt|mu_j| v_j; all without the part that
    /// --contrast takes out; undefined with contraction.
    torch::Tensor sketches;
    std::vector<torch::Tensor> directions;  ///< the same, a chosen layer each (C + r x outputs x inputs), if contracted
    std::vector<std::int64_t> contrast;     ///< pool rows whose mean direction was taken out, in order
};

/// What the stages of the targets work on.
struct Labelling {
    const options::Values& values;
    const GradientPlan& plan;
    const GradientModel& model;
    const data::Corpus& pool;
    const data::Corpus& targets;
    const work::Work& work;

    [[nodiscard]] const options::InputSettings& inputs() const { return values.of<options::InputSettings>(); }
    [[nodiscard]] const options::RunSettings& run() const { return values.of<options::RunSettings>(); }
    [[nodiscard]] bool cosine() const { return values.of<GradientSettings>().normalize == Normalize::cosine; }
    [[nodiscard]] bool by_task() const { return inputs().columns == options::ColumnKind::tasks; }
};

/// Gradients of the targets and the contrast.
struct TargetLabels {
    torch::Tensor norms;     ///< (places) of their gradients
    torch::Tensor sketches;  ///< (M x k) of the targets' gradients
    torch::Tensor products;  ///< (M x plan's step_products) of these with the optimizer's b
};
/// The stage of the targets: units claimed by any rank, labels whole on every rank. Collective.
TargetLabels label_targets(const Labelling& run);

/// What is made of the labels of places whose norm is finite and above 0: their sketches, or with contraction the
/// tasks' mean gradients, by one more stage. What the curvature adds follows as further rows. Collective. Throws
/// Error(bad_input) for a task without such a target.
std::unique_ptr<GradientColumns> make_columns(const Labelling& run, const TargetLabels& labels);

}  // namespace idistill::influence
