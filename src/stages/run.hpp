#pragma once
// What the stages of a run share. Each stage's file says who runs it, what is exchanged, what holds.

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/read_ids.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/model/loaded_model.hpp"
#include "idistill/options/table.hpp"
#include "idistill/options/values.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/plan/usable_rows.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/work/run_lock.hpp"
#include "idistill/work/work.hpp"
#include "plan_run.hpp"

namespace idistill::stages {

/// What was asked for, and by which program.
struct Command {
    const options::Table& table;
    const options::Values& values;
    std::string program;
    [[nodiscard]] const options::InputSettings& inputs() const { return values.of<options::InputSettings>(); }
    [[nodiscard]] const options::RunSettings& run() const { return values.of<options::RunSettings>(); }
};

/// Inputs after their full check, and what was planned from them.
struct Inputs : RunPlan {
    Inputs(model::ModelConfig config, data::Corpus of_pool, data::Corpus of_targets, RunPlan planned)
        : RunPlan(std::move(planned)),
          model(std::move(config)),
          pool(std::move(of_pool)),
          target_files(std::move(of_targets)) {}

    model::ModelConfig model;
    data::Corpus pool;
    data::Corpus target_files;  ///< none, unless targets are in files

    /// What UsableRows::target_rows are rows of.
    [[nodiscard]] const data::Corpus& targets() const { return target_files.files().empty() ? pool : target_files; }
};

/// Seconds of every stage on this rank, in order.
using Timings = std::vector<std::pair<std::string, double>>;

/// What --refine computed; the same on every rank.
struct Refinement {
    double times_budget = 0;         ///< as many rows, but for rounding
    std::vector<std::int64_t> rows;  ///< of the pool, ascending: in order of the state's refine rows
};

/// What a run carries from stage to stage.
struct Run {
    const Command& command;
    const Inputs& inputs;
    const model::LoadedModel& model;
    const work::Work& work;
    const influence::Columns& columns;
    const Refinement* refinement = nullptr;  ///< once there is one: its rows count in place of what was predicted
};

/// How well some number of landmarks predicts, by leave-one-out: means over the tasks where it is defined.
struct LandmarkTrial {
    std::int64_t landmarks = 0;
    double r2 = 0, r2_within_source = 0, spearman = 0;
};

/// Landmarks so far, and how well growing numbers of them predicted.
struct Labels {
    propagation::Landmarks landmarks;
    std::vector<LandmarkTrial> trials;
};

/// Reads and checks all inputs, each rank its share, makes the members and the plan, which must agree. Collective.
Inputs read_inputs(const Command& command, comm::Communicator& comm);
/// The model, and what the members take of it. Collective.
model::LoadedModel load(const Command& command, comm::Communicator& comm, const Inputs& inputs);
/// The state of an earlier start, or a new one. Collective.
std::unique_ptr<work::StateFile> open_state(const Command& command, comm::Communicator& comm, const Inputs& inputs,
                                            const model::LoadedModel& model);

plan::CorpusShape shape_of(const data::Corpus& corpus);

/// Of a run and of `embed`. Collective. Throws Error(internal_error) unless all ranks made the same plan.
void check_plans_agree(comm::Communicator& comm, std::uint64_t hash);

/// What decides the numbers of a run beside its members: settings, model, pool, plan.
nlohmann::json common_identity(const Command& command, const model::ModelConfig& config,
                               const model::LoadedModel& model, const data::Corpus& pool, const plan::Plan& plan);

/// Opens OUT.state, and says how much of an earlier start is kept.
std::unique_ptr<work::StateFile> continue_state(const Command& command, comm::Communicator& comm,
                                                const plan::Plan& plan, const std::string& identity);

/// Of a run and of `embed`: rank 0 names the token files that were not prepared with the model's tokenizer, or says why
/// that cannot be known.
void warn_of_other_tokenizers(const Command& command, comm::Communicator& comm,
                              std::initializer_list<const data::Corpus*> corpora);

/// What the command needs against what this machine has: printed by rank 0 for `plan`, otherwise refused by it with
/// Error(too_large) when it does not fit. Collective.
void check_resources(const Command& command, comm::Communicator& comm, const plan::Plan& plan);

/// Rank 0 fails when OUT is a directory and, but for plan, when it exists and may not be replaced.
void check_output_is_free(const Command& command, comm::Communicator& comm);

/// Tasks of the columns that are left, with their names.
propagation::Tasks tasks_of(const Run& run);

/// Labels up to the next of the plan's landmark_counts, in addition to those labelled already.
void label_more_landmarks(const Run& run, Labels& labels);
/// Whether to go on to the next of the plan's landmark_counts; notes how well those so far predict.
bool landmarks_worth_adding(const Run& run, Labels& labels);
void propagate_to_pool(const Run& run, const Labels& labels);
void compute_pool_exactly(const Run& run);

Refinement refine(const Run& run, const Labels& labels);
/// What refining was worth, for people; the same on every rank. Gives the gain of the selection over that of the
/// selection by prediction alone: mean influence over the mean of the pool, a pick's influence being on the column that
/// chose it (or what its rule ranks by), exact where it is known. NaN where prediction alone gains nothing.
double report_refinement(const Run& run, const selection::Selection& selection);

/// What the last stages, select and write, work from: the state of a run, or an existing result.
struct RatedPool {
    selection::PoolFacts facts;
    selection::InfluenceRows influence;
    std::shared_ptr<const selection::Similarity> similarity = {};  ///< which influence refers to
    data::ReadIds read_ids;
};

/// What the selector selects; the same on every rank. Collective.
selection::Selection select(comm::Communicator& comm, const selection::Selector& selector, const RatedPool& pool);
/// /weight and /selected: the selection's weights, or N / k each. Collective.
void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     const RatedPool& pool);

/// Everything the result file holds beside the pool's rows.
struct Results {
    const Labels* labels;    ///< null without propagation
    double refinement_gain;  ///< with a refinement
    const selection::Selection& selection;
    const Timings& timings;
};
void write_result(const Run& run, const Results& results);

/// `idistill_mpi embed`: an embedding of every usable sample of the pool into a file of its own.
void embed_pool(const Command& command, comm::Communicator& comm);

/// `idistill_mpi select`: the last stages from an existing result.
void select_again(const Command& command, comm::Communicator& comm);

}  // namespace idistill::stages
