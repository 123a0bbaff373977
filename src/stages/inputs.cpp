// Stage 1, plan: every rank reads and checks its share of the inputs and makes the same plan; the plan's hash must
// agree.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "idistill/comm/say.hpp"
#include "idistill/data/overlap.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/model/cuda.hpp"
#include "idistill/model/safetensors.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/members.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

void say_quarantine(comm::Communicator& comm, const std::string& what, const std::vector<plan::Quarantined>& rows) {
    std::map<std::string, std::int64_t> reasons;
    for (const auto& row : rows) ++reasons[plan::to_string(row.reason)];
    for (const auto& [reason, count] : reasons) say(comm, fmt::format("{} {} left out: {}", count, what, reason));
}

void say_overlap(comm::Communicator& comm, const data::Overlap& overlap, const Command& command,
                 const data::Corpus& targets) {
    const auto& names = command.inputs().targets;
    for (std::size_t task = 0; task < names.size(); ++task) {
        const auto [pool_rows, target_rows] = overlap.tasks[task];
        if (pool_rows == 0) continue;
        say(comm, fmt::format(
                      "warning: {} sample{} of the pool {} also in target {}, {} of its {} (equal tokens and labels){}",
                      pool_rows, pool_rows == 1 ? "" : "s", pool_rows == 1 ? "is" : "are", names[task].name,
                      target_rows, targets.files()[task].size(),
                      command.inputs().drop_overlap
                          ? ""
                          : ": their influence on it is that on themselves; --drop-overlap leaves them out"));
    }
    if (overlap.repeated > 0)
        say(comm, fmt::format("note: {} pool sample{} one before (equal tokens and labels)", overlap.repeated,
                              overlap.repeated == 1 ? " repeats" : "s repeat"));
}

Inputs open_inputs(const Command& command, comm::Communicator& comm) {
    const auto& files = command.inputs();
    auto [model, notes] = model::check_model(files.model);  // before anything is loaded
    for (const auto& note : notes) say(comm, "warning: " + note);
    data::Corpus pool(files.pool, model.vocabulary);
    std::vector<std::string> target_files;
    for (const auto& target : files.targets) target_files.push_back(target.path);
    data::Corpus targets(target_files, model.vocabulary);
    pool.scan(comm);
    targets.scan(comm);
    if (influence::joins_samples(command.values)) {
        pool.read_joints(comm);
        targets.read_joints(comm);
    }
    auto overlap = data::find_overlap(comm, pool, targets);
    say_overlap(comm, overlap, command, targets);
    auto of_pool = shape_of(pool);
    if (files.drop_overlap)
        for (const auto row : overlap.pool_rows) of_pool.left_out.push_back({row, plan::QuarantineReason::of_a_target});
    auto values = command.values;
    embedding::look_at_files(values);
    influence::look_at_files(values);
    selection::look_at_files(values);
    const auto not_rated = influence::look_at_pool(values, comm, pool);
    of_pool.left_out.insert(of_pool.left_out.end(), not_rated.begin(), not_rated.end());
    std::ranges::stable_sort(of_pool.left_out, {}, &plan::Quarantined::row);
    auto planned = plan_run(values, model, of_pool, shape_of(targets.files().empty() ? pool : targets));
    planned.influence->check_files(model);
    planned.selector->open(comm, pool_facts(planned, pool.index()),
                           [&pool](data::RowRange rows) { return pool.read_ids(rows); });
    return {std::move(model), std::move(pool), std::move(targets), std::move(planned)};
}

}  // namespace

plan::CorpusShape shape_of(const data::Corpus& corpus) {
    plan::CorpusShape shape{corpus.index(), {}};
    for (const auto& file : corpus.files()) shape.files.push_back({file.size(), file.max_length()});
    return shape;
}

Inputs read_inputs(const Command& command, comm::Communicator& comm) {
    auto inputs = open_inputs(command, comm);
    check_plans_agree(comm, inputs.plan.hash());
    warn_of_other_tokenizers(command, comm, {&inputs.pool, &inputs.target_files});
    say_quarantine(comm, "pool samples", inputs.usable.pool_quarantine);
    say_quarantine(comm, "target samples", inputs.usable.target_quarantine);
    const auto& settings = command.values.of<propagation::PropagationSettings>();
    if (inputs.propagation && settings.landmarks_left_open() &&
        std::ssize(inputs.exact.landmarks) < propagation::default_landmarks)
        say(comm, fmt::format("note: every one of the pool's {} eligible samples is a landmark: --propagation none "
                              "gives the same influences for less",
                              inputs.exact.landmarks.size()));
    return inputs;
}

model::LoadedModel load(const Command& command, comm::Communicator& comm, const Inputs& inputs) {
    auto model = reads_weights(inputs)
                     ? model::load_model(comm, command.inputs().model, inputs.model, model::place_of(command.run()))
                     : model::model_without_weights(inputs.model);
    inputs.influence->load(comm, *model.decoder, inputs.pool, inputs.targets());
    if (inputs.propagation)
        inputs.propagation->load(comm, *model.decoder, inputs.pool, inputs.targets(), inputs.usable);
    return model;
}

nlohmann::json common_identity(const Command& command, const model::ModelConfig& config,
                               const model::LoadedModel& model, const data::Corpus& pool, const plan::Plan& plan) {
    auto identity = nlohmann::json::parse(options::identity_json(command.table, command.values));
    if (!model.sha256.empty()) identity["model sha256"] = model.sha256;
    identity["model geometry"] = model::geometry(config);
    if (const auto& gpu = command.run().gpu.name; !gpu.empty()) {
        identity["device model"] = gpu;
        identity["device libraries"] = model::cuda::libraries();
    }
    identity["pool sha256"] = pool.index().content_sha256;
    identity["stage"]["plan hash"] = fmt::format("{:016x}", plan.hash());
    return identity;
}

std::unique_ptr<work::StateFile> continue_state(const Command& command, comm::Communicator& comm,
                                                const plan::Plan& plan, const std::string& identity) {
    auto state = std::make_unique<work::StateFile>(comm, command.inputs().out + ".state", identity, plan.stages);
    if (state->units_recovered() > 0)
        say(comm, fmt::format("continuing: {} units of an earlier run are kept", state->units_recovered()));
    return state;
}

std::unique_ptr<work::StateFile> open_state(const Command& command, comm::Communicator& comm, const Inputs& inputs,
                                            const model::LoadedModel& model) {
    auto identity = common_identity(command, inputs.model, model, inputs.pool, inputs.plan);
    identity["state version"] = 5;
    identity["targets sha256"] = inputs.targets().index().content_sha256;
    for (const auto& name : inputs.usable.task_names) identity["target names"].push_back(name);
    inputs.influence->identify(identity);
    if (inputs.propagation) inputs.propagation->identify(identity);
    return continue_state(command, comm, inputs.plan, identity.dump());
}

}  // namespace idistill::stages
