#pragma once
// Stage 2, the targets: what it works on, and the columns it makes.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "idistill/comm/mpi.hpp"
#include "idistill/influence/gradient/preconditioner.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/model/passes.hpp"
#include "plan.hpp"

namespace idistill::influence {

/// The factors of --optimizer as every rank sees them, one copy per node; without it a plain gradient step's.
struct LoadedOptimizer {
    std::unique_ptr<comm::NodeSharedMemory> memory;
    std::string sha256;  ///< of the file; empty without one
    Preconditioner preconditioner;
    std::unique_ptr<const OptimizerFile> file;  ///< null without one
};

struct GradientModel {
    const model::Decoder& decoder;
    model::ChosenLayers chosen;
    LoadedOptimizer optimizer;
    std::unique_ptr<GradientSketch> sketch;  ///< null with contraction
};

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

/// Exact labels of the targets: gradient sketches, or with contraction the tasks' mean gradients; units claimed by any
/// rank, results whole on every rank. What the curvature adds follows as further rows.
std::unique_ptr<GradientColumns> label_targets(const Labelling& run);

}  // namespace idistill::influence
