#pragma once
// What the stages share: inputs, plan, model, state. Each stage's file says who runs it, what is exchanged, what holds.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/config/model_config.hpp"
#include "idistill/config/plan.hpp"
#include "idistill/config/resources.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/influence/preconditioner.hpp"
#include "idistill/influence/sketch.hpp"
#include "idistill/io/result_file.hpp"
#include "idistill/io/state_file.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/selection/selection.hpp"

namespace idistill::stages {

/// Stage 1: inputs after their full check, and the plan made from them.
struct Inputs {
    config::ModelConfig model;
    data::Corpus pool;
    data::Corpus targets;
    config::Plan plan;
    std::map<std::size_t, data::EmbeddingFile> embedding_files;  ///< by place among the plan's embeddings; matched
};

/// The factors of --optimizer as every rank sees them, one copy per node; without it a plain gradient step's.
struct LoadedOptimizer {
    std::unique_ptr<comm::NodeSharedMemory> memory;
    std::string sha256;  ///< of the file; empty without one
    influence::Preconditioner preconditioner;
    std::unique_ptr<const influence::OptimizerFile> file;  ///< null without one
};

/// The model as every rank sees it: one copy of the weights per node.
struct LoadedModel {
    std::unique_ptr<comm::NodeSharedMemory> memory;
    std::string sha256;
    model::Decoder decoder;
    model::ChosenLayers chosen;
    LoadedOptimizer optimizer;
};

/// What samples are turned into; null where the run has no use for it.
struct Encoders {
    std::unique_ptr<influence::GradientSketch> sketch;              ///< stages 2 and 3, or 2 and 5 without propagation
    std::vector<std::unique_ptr<embedding::Embedding>> embeddings;  ///< stages 3 and 5; null for a file
};

/// Datasets of OUT.state; the numbers are the places in the vector given to StateFile.
enum StateStage : std::size_t { target_rows, landmark_rows, pool_rows, direction_rows, refined_rows, curvature_rows };

/// Seconds of every stage on this rank, in order.
using Timings = std::vector<std::pair<std::string, double>>;

/// What --refine computed; the same on every rank.
struct Refinement {
    double factor = 0;  ///< times the budget
    std::vector<std::int64_t>
        rows;  ///< those computed, ascending: rows of the pool in order of the state's refined_rows
};

/// What a run carries from stage to stage.
struct Run {
    const config::Settings& settings;
    comm::Communicator& comm;
    const Inputs& inputs;
    const LoadedModel& model;
    const Encoders& encoders;
    io::StateFile& state;
    const Refinement* refinement = nullptr;  ///< once there is one: its rows count in place of what was predicted
};

/// Stage 2's result, the same on every rank.
struct TargetLabels {
    std::vector<std::int64_t> kept;          ///< places in plan.target_rows of the columns that are left
    std::vector<std::int64_t> dropped;       ///< places of those whose gradient is not finite or zero
    std::vector<std::int32_t> column_task;   ///< (C)
    std::vector<std::int32_t> label_tokens;  ///< (C) of the column's target samples together
    std::vector<float> norm;                 ///< (C) mean norm of their loss gradients
    std::vector<float> step_product;         ///< (C) <g_t, b> of --optimizer, normalised as sketches; empty without
    std::vector<double> curvature;           ///< (r) mu of the Hessian's decomposition; empty without
    std::vector<double> curvature_step;      ///< (r) <sqrt|mu_j| v_j, b>; empty without an optimizer
    /// (C + r x k): of the columns, normalised as --normalize says, then of sqrt|mu_j| v_j; all without the part that
    /// --contrast takes out; undefined with contraction.
    torch::Tensor sketches;
    std::vector<torch::Tensor>
        directions;                      ///< the same, a chosen layer each (C + r x outputs x inputs), with contraction
    std::vector<std::int64_t> contrast;  ///< pool rows whose mean direction was taken out, in order
    std::vector<std::int64_t> unusable;  ///< pool rows drawn for it whose gradient is zero or not finite, ascending
    [[nodiscard]] std::int64_t columns() const { return static_cast<std::int64_t>(column_task.size()); }
    /// Columns of influence with those of the curvature's factor behind them.
    [[nodiscard]] std::int64_t products() const { return columns() + static_cast<std::int64_t>(curvature.size()); }
};

/// How well some number of landmarks predicts, by leave-one-out: means over the tasks where it is defined.
struct LandmarkTrial {
    std::int64_t landmarks = 0;
    double r2 = 0, r2_within_source = 0, spearman = 0;
};

/// Stage 3's result, the same on every rank.
struct LandmarkLabels {
    std::vector<std::int64_t> rows;              ///< (L) of the pool: the plan's first
    torch::Tensor influence;                     ///< (L x C) as it is written
    torch::Tensor factor;                        ///< (L x r) of the curvature
    torch::Tensor norm;                          ///< (L)
    torch::Tensor embedding;                     ///< (L x e)
    std::map<std::int64_t, std::int64_t> place;  ///< pool row -> place
    std::vector<LandmarkTrial> trials;           ///< of growing numbers, the last of L
};

/// One combination of embeddings that --embedding auto compared.
struct EmbeddingTrial {
    double cost = 0;              ///< planned FLOPs of propagating to a sample, over those of its exact influence
    double error = 0;             ///< leave-one-out: mean over tasks of 1 - R2; NaN where no task varies
    double r2_within_source = 0;  ///< mean over the tasks where it is defined, as the next two; NaN for none
    double r2 = 0;
    double spearman = 0;
};

/// Stage 4's result, the same on every rank; leave-one-out and trust of usable landmarks.
struct Propagation {
    std::vector<std::size_t> embeddings;  ///< places in the plan's embeddings of those in use
    std::vector<EmbeddingTrial> trials;   ///< of config::embedding_candidates, in their order; empty for a single one
    propagation::Solution solution;
    torch::Tensor leave_one_out;  ///< (L x C) as influence is written; NaN for landmarks that are not finite
    propagation::Trust trust;
    std::vector<propagation::KernelTrial> kernels;  ///< what --bandwidth auto and --kernel auto compared; on rank 0
};

Inputs read_inputs(const config::Settings& settings, comm::Communicator& comm);
LoadedModel load_model(const config::Settings& settings, comm::Communicator& comm, const config::ModelConfig& config);
Encoders make_encoders(const config::Settings& settings, const config::Plan& plan, const LoadedModel& model);
/// Null for a file.
std::unique_ptr<embedding::Embedding> make_embedding(const config::Settings& settings,
                                                     const config::EmbeddingShape& shape,
                                                     const model::Decoder& decoder);
std::unique_ptr<io::StateFile> open_state(const config::Settings& settings, comm::Communicator& comm,
                                          const Inputs& inputs, const LoadedModel& model);

/// What the command needs against what this machine has: printed by rank 0 for `plan`, otherwise refused by it with
/// Error(too_large) when it does not fit. Collective.
void check_resources(const config::Settings& settings, comm::Communicator& comm, const Inputs& inputs);
/// The same of `select`, from a result of this shape.
void check_selection_resources(const config::Settings& settings, comm::Communicator& comm, config::ResultShape result);

TargetLabels label_targets(const Run& run);
/// Labels up to the next of the plan's landmark_counts, in addition to those labelled already.
void label_more_landmarks(const Run& run, const TargetLabels& targets, LandmarkLabels& landmarks);
/// Whether to go on to the next of the plan's landmark_counts; notes how well those so far predict.
bool landmarks_worth_adding(const Run& run, const Propagation& propagation, LandmarkLabels& landmarks);
Propagation solve(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks);
void propagate_to_pool(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                       const Propagation& propagation);
void compute_pool_exactly(const Run& run, const TargetLabels& targets);
Refinement refine(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                  const Propagation& propagation);
selection::Selection select(const Run& run, const TargetLabels& targets);

/// What refining was worth, for people; the same on every rank. Gives the gain of the selection over that of the
/// selection by prediction alone: mean influence over the mean of the pool, a pick's influence being on the column that
/// chose it (or what its rule ranks by), exact where it is known. NaN where prediction alone gains nothing.
double report_refinement(const Run& run, const TargetLabels& targets, const selection::Selection& selection);

/// Everything the result file holds beside the pool's rows.
struct Results {
    const TargetLabels& targets;
    const LandmarkLabels* landmarks;  ///< null without propagation, as the next
    const Propagation* propagation;
    double refinement_gain;  ///< with a refinement
    const selection::Selection& selection;
    const Timings& timings;
    std::string program;
};
void write_result(const Run& run, const Results& results);

/// `idistill_mpi embed`: an embedding of every usable sample of the pool into a file of its own.
void embed_pool(const config::Settings& settings, comm::Communicator& comm, const std::string& program);

/// `idistill_mpi select`: stages 6 and 7 from an existing result.
void select_again(const config::Settings& settings, comm::Communicator& comm, const std::string& program);

/// Rank 0 says something to the user, on standard error.
void say(comm::Communicator& comm, const std::string& text);

}  // namespace idistill::stages
