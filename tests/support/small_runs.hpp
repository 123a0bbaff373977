#pragma once
// Runs on a small folder, with members that are known in closed form. Ranks may be threads.

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "idistill/comm/thread_group.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/members.hpp"
#include "program_options.hpp"
#include "small_members.hpp"
#include "stages/rated_pool.hpp"
#include "stages/run.hpp"

namespace idistill::test {

// --- runs -----------------------------------------------------------------------------------------------------------

using Words = std::vector<std::string>;

inline Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

inline options::Values parsed(const Words& words) {
    std::string text;
    return options::parse(program_options(), words, text, "1").value();
}

/// A run of the folder with these further options; units of this cost.
inline options::Values small_values(const SmallFolder& folder, const std::string& out, const Words& more,
                                    double unit_flops) {
    auto values = parsed(joined({"--model", "m", "--pool", folder / "pool_a.h5", folder / "pool_b.h5", "--target",
                                 "code=" + folder / "code.h5", "maths=" + folder / "maths.h5", "--out", out},
                                more));
    values.of<options::RunSettings>().unit_flops = unit_flops;
    return values;
}

inline model::ModelConfig small_model() {
    model::ModelConfig model;
    model.family = "llama";
    model.vocabulary = small_vocabulary;
    model.hidden = 4;
    model.intermediate = 6;
    model.blocks = 3;
    model.heads = 2;
    model.kv_heads = 1;
    model.head_dim = 2;
    model.max_positions = 64;
    return model;
}

/// As stages::read_inputs, without a model's files and with the members of this test. Collective.
inline stages::Inputs small_inputs(const stages::Command& command, comm::Communicator& comm, Script& script) {
    const auto& files = command.inputs();
    auto model = small_model();
    data::Corpus pool(files.pool, model.vocabulary);
    std::vector<std::string> target_files;
    std::vector<plan::TaskFile> tasks;
    for (const auto& target : files.targets) {
        target_files.push_back(target.path);
        tasks.push_back({target.name, target.path});
    }
    data::Corpus targets(target_files, model.vocabulary);
    pool.scan(comm);
    targets.scan(comm);
    const auto pool_shape = stages::shape_of(pool), target_shape = stages::shape_of(targets);
    stages::RunPlan run{plan::usable_rows(pool_shape, target_shape, tasks),
                        std::make_unique<KnownInfluence>(script),
                        nullptr,
                        selection::make_selector(command.values),
                        {},
                        {}};
    if (command.values.of<propagation::PropagationSettings>().member != "none")
        run.propagation = std::make_unique<NearestLandmark>(script);
    run.selector->check(stages::pool_facts(run, pool.index()));
    stages::plan_members(command.values, model, pool_shape, target_shape, run);
    stages::check_plans_agree(comm, run.plan.hash());
    return {std::move(model), std::move(pool), std::move(targets), std::move(run)};
}

/// As pipeline.cpp does the stages of a run. Collective.
inline void run_stages(const options::Values& values, comm::Communicator& comm, Script& script) {
    const stages::Command command{program_options(), values, "a test"};
    const auto inputs = small_inputs(command, comm, script);
    if (comm.is_root()) {
        script.landmarks = inputs.exact.landmarks;
        for (const auto& stage : inputs.plan.stages) script.units[stage.name] = stage.units;
    }
    const work::RunLock lock(comm, command.inputs().out);
    const model::LoadedModel model{nullptr, "of no weights", nullptr};
    const auto state = stages::open_state(command, comm, inputs, model);
    const work::Work work{comm, *state, inputs.plan};
    script.stage(comm, "targets");
    const auto columns = inputs.influence->columns(work, inputs.pool, inputs.targets());
    stages::Run run{command, inputs, model, work, *columns};
    std::optional<stages::Labels> labels;
    std::optional<stages::Refinement> refinement;
    if (!inputs.propagation) {
        script.stage(comm, "exact");
        stages::compute_pool_exactly(run);
    } else {
        labels.emplace();
        do {
            script.stage(comm, "landmarks");
            stages::label_more_landmarks(run, *labels);
            script.stage(comm, "solve");
            inputs.propagation->fit(work, inputs.pool, labels->landmarks, stages::tasks_of(run));
        } while (stages::landmarks_worth_adding(run, *labels));
        script.stage(comm, "propagate");
        stages::propagate_to_pool(run, *labels);
    }
    if (inputs.exact.refine_budget > 0) {
        script.stage(comm, "refine");
        refinement = stages::refine(run, *labels);
        run.refinement = &*refinement;
        if (comm.is_root()) script.refined = refinement->rows;
    }
    script.stage(comm, "select");
    const auto selection = stages::select(comm, *inputs.selector, stages::rated_pool(run));
    script.stage(comm, "report");
    const double gain = refinement ? stages::report_refinement(run, selection) : 0.0;
    script.stage(comm, "write");
    stages::write_result(run, {labels ? &*labels : nullptr, gain, selection, {{"select", 1.0 + comm.rank()}}});
    script.stage(comm, "remove");
    state->remove();
}

inline void run_on_threads(int ranks, const options::Values& values, Script& script) {
    comm::run_ranks_as_threads(
        ranks, [&](comm::Communicator& comm) { run_stages(values, comm, script); }, 20.0);
}

// --- what is in a file
// ------------------------------------------------------------------------------------------------

/// Bytes of every dataset by its name, and of every number among the attributes that is one of the result.
inline std::map<std::string, std::string> contents_of(const std::string& path) {
    std::map<std::string, std::string> all;
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) throw std::runtime_error("no file " + path);
    const auto dataset = [](hid_t root, const char* name, const H5O_info_t* info, void* into) -> herr_t {
        if (info->type != H5O_TYPE_DATASET) return 0;
        const hid_t opened = H5Dopen2(root, name, H5P_DEFAULT);
        const hid_t type = H5Dget_type(opened), space = H5Dget_space(opened);
        std::string bytes(H5Tget_size(type) * static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)), '\0');
        if (!bytes.empty()) H5Dread(opened, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
        (*static_cast<std::map<std::string, std::string>*>(into))[std::string("/") + name] = bytes;
        H5Sclose(space);
        H5Tclose(type);
        H5Dclose(opened);
        return 0;
    };
    H5Ovisit1(file, H5_INDEX_NAME, H5_ITER_INC, dataset, &all);
    const auto attribute = [](hid_t root, const char* name, const H5A_info_t* /*info*/, void* into) -> herr_t {
        const std::string_view text(name);
        if (text == "ranks" || text == "units_recovered" || text.starts_with("seconds_")) return 0;
        const hid_t opened = H5Aopen(root, name, H5P_DEFAULT), type = H5Aget_type(opened);
        if (H5Tget_class(type) != H5T_STRING) {
            std::string bytes(H5Tget_size(type), '\0');
            H5Aread(opened, type, bytes.data());
            (*static_cast<std::map<std::string, std::string>*>(into))["attribute " + std::string(text)] = bytes;
        }
        H5Tclose(type);
        H5Aclose(opened);
        return 0;
    };
    H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, attribute, &all);
    H5Fclose(file);
    return all;
}

/// Names of what is not the same in both.
inline std::string differing(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
    std::string names;
    for (const auto& [name, bytes] : a)
        if (const auto other = b.find(name); other == b.end() || other->second != bytes) names += name + " ";
    for (const auto& [name, bytes] : b)
        if (!a.contains(name)) names += name + " ";
    return names;
}

}  // namespace idistill::test
