#pragma once
// The gradient influence (Influence Distillation, arXiv 2505.19051): what its files share.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "idistill/comm/mpi.hpp"
#include "idistill/influence/gradient/cost.hpp"
#include "idistill/influence/gradient/preconditioner.hpp"
#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// Names of its stages and their datasets in the state.
namespace state {
inline constexpr const char* targets = "targets";
inline constexpr const char* directions = "directions";
inline constexpr const char* curvature = "curvature";
inline constexpr const char* columns = "columns";  ///< no stage: what is made of the others
inline constexpr const char* norm = "norm";
inline constexpr const char* sketch = "sketch";
inline constexpr const char* step = "step";
inline constexpr const char* sum = "sum";
inline constexpr const char* product = "product";
}  // namespace state

/// Of the result: the curvature's factor.
inline constexpr const char* factor_dataset = "/curvature/factor";

/// What is decided before the model is loaded. Targets, and behind them the samples of --contrast, have places; the
/// contrast counts as one more task.
struct GradientPlan {
    std::vector<model::LinearLayer> layers;  ///< the chosen ones
    bool contracts = false;                  ///< products with whole directions in place of sketches
    bool preconditioned = false;
    SketchShape sketch;  ///< width 0 with contraction
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

    [[nodiscard]] std::int64_t targets() const { return std::ssize(target_rows); }
    [[nodiscard]] std::int64_t places() const { return targets() + std::ssize(contrast_rows); }
    [[nodiscard]] std::int64_t task_of(std::int64_t place) const {
        return place < targets() ? target_task[static_cast<std::size_t>(place)] : tasks;
    }
};

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
    [[nodiscard]] std::int64_t products() const { return count() + std::ssize(curvature); }
};

/// What the stages of the targets work on.
struct Labelling {
    const GradientSettings& settings;
    options::ColumnKind columns;
    const std::vector<options::Target>& names;  ///< of the tasks
    std::string model_directory;                ///< for messages
    std::uint64_t seed;
    std::int64_t batch_tokens;
    const GradientPlan& plan;
    const GradientModel& model;
    const data::Corpus& pool;
    const data::Corpus& targets;
    const work::Work& work;

    [[nodiscard]] bool cosine() const { return settings.normalize == Normalize::cosine; }
    [[nodiscard]] bool by_task() const { return columns == options::ColumnKind::tasks; }
};

/// Stages, needs and datasets, and what they follow from.
GradientPlan plan_gradients(const options::Values& values, model::Planner& planner, const Wanted& wanted);
/// Held by a gradient pass of its largest micro-batch.
double pass_bytes(const GradientSettings& settings, const GradientPlan& plan, const model::ModelConfig& model,
                  const plan::Batch& batch);
/// Planned FLOPs of exact influence of a pool row.
double exact_flops(const GradientPlan& plan, const GradientCost& cost, const Layout& layout,
                   const data::CorpusIndex& pool, std::int64_t row);

/// Collective: the optimizer's factors, computed by one rank of each node.
LoadedOptimizer load_optimizer(comm::Communicator& comm, const std::string& path,
                               const std::vector<model::LinearLayer>& layers);

/// Exact labels of the targets: gradient sketches, or with contraction the tasks' mean gradients; units claimed by any
/// rank, results whole on every rank. What the curvature adds follows as further rows.
std::unique_ptr<GradientColumns> label_targets(const Labelling& run);

// --- targets.cpp, directions.cpp and curvature.cpp of these ----------------------------------------------------------

/// Samples at places of targets, or at places of the contrast.
data::Samples read_labelled(const Labelling& run, const std::vector<std::int64_t>& places);

/// Steps go along the pool's gradients times the optimizer's factors; of the targets the gradients themselves count.
const Preconditioner& factors_of(const Labelling& run, std::int64_t place);

/// How many of the places each task has; last the contrast.
std::vector<std::int64_t> members_of(const GradientPlan& plan, const std::vector<std::int64_t>& places);

/// Scale of each usable place's gradient in the mean of its task: 1/(usable ones of the task), over its norm with
/// cosine, and in the contrast, of which the direction alone counts; 0 for the others.
torch::Tensor mean_scales(const Labelling& run, const std::vector<std::int64_t>& usable, const torch::Tensor& norms);

/// Takes the parts along `common` (pieces x width) out of the rows (C + r x pieces x width); products are added in
/// fp64. Says of how many of the first C, the targets, nothing is left.
void take_out_contrast(const Labelling& run, const torch::Tensor& common, std::int64_t columns,
                       const torch::Tensor& rows);

/// Part of one chosen layer (outputs x inputs) in what the optimizer's next step adds whatever the gradient is: b.
torch::Tensor step_constant(const Labelling& run, std::size_t layer);

/// Views of the chosen layers in `flat` (... x numbers of a direction): (... x outputs x inputs) each.
std::vector<torch::Tensor> by_layer(const GradientModel& model, const torch::Tensor& flat);

/// With contraction: mean gradient of every task, and behind them `factor` (r x numbers of a direction; undefined:
/// none), without the part that --contrast takes out; a tensor (C + r x outputs x inputs) a layer. The tasks' are sums
/// of units, claimed by any rank and added in their order.
std::vector<torch::Tensor> task_directions(const Labelling& run, const std::vector<std::int64_t>& usable,
                                           const torch::Tensor& norms, const torch::Tensor& factor);

/// H_T ~ sum_j mu_j v_j v_j' of the mean target loss: that of the mean of the columns, so with cosine of losses over
/// their gradients' norms. --contrast changes the targets' gradients, not their losses: H_T is the same with it.
struct TargetCurvature {
    std::vector<double> value;  ///< (r) mu, in descending size
    torch::Tensor factor;       ///< (r x numbers of a direction in the state): sqrt|mu_j| v_j
    std::vector<double> step;   ///< (r) products of these with the optimizer's b; empty without
};

/// By the Lanczos iteration over exact Hessian-vector products, from a seeded start. Collective. The units of a product
/// are shared out in rounds, one a rank, and added in their order, whatever the number of ranks; a finished product is
/// a unit of the state, so that a restart repeats none. `norms` (places) of the gradients. Throws Error(bad_input)
/// for a product that is not finite.
TargetCurvature target_curvature(const Labelling& run, const std::vector<std::int64_t>& kept,
                                 const torch::Tensor& norms);

/// (C) What column t of the influence counts in Q with the target Fisher: T_t / M, as H_T ~ (1/M) sum_t T_t g_t g_t'
/// for losses l_t that are means over T_t tokens. With cosine the target loss is mean_t l_t / |g_t|, whose Hessian is
/// as much smaller, while the column is short of two factors |g_t|: T_t |g_t| / M.
std::vector<double> fisher_weights(const std::vector<std::int32_t>& label_tokens, const std::vector<float>& norm,
                                   bool cosine);

/// (r) What column j of the Hessian's factor counts in Q: the sign of mu_j (`value`), as the factor has its size; 0 for
/// 0.
std::vector<double> hessian_weights(const std::vector<double>& value);

/// What second order takes from a result.
CurvatureTerms read_fisher(const io::ResultReader& result);
CurvatureTerms read_hessian(const io::ResultReader& result);

}  // namespace idistill::influence
