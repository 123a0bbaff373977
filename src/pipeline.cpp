#include "pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "idistill/comm/say.hpp"
#include "stages/device.hpp"
#include "stages/rated_pool.hpp"
#include "stages/run.hpp"

namespace idistill {
namespace {

/// Calls `stage` and notes how long it took on this rank, all calls of one name together.
template <class Stage>
auto timed(stages::Timings& timings, const char* name, Stage&& stage) {
    struct Note {
        stages::Timings& timings;
        const char* name;
        std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
        ~Note() {
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            const auto found = std::find_if(timings.begin(), timings.end(), [&](auto& t) { return t.first == name; });
            if (found == timings.end())
                timings.emplace_back(name, seconds);
            else
                found->second += seconds;
        }
    } note{timings, name};
    return stage();
}

/// Label a few exactly, propagate to all, select (the figure of README.md). Every stage is collective.
void distill(const stages::Command& command, comm::Communicator& comm) {
    stages::Timings timings;
    const auto& out = command.inputs().out;
    const auto inputs = timed(timings, "plan", [&] { return stages::read_inputs(command, comm); });
    stages::check_resources(command, comm, inputs.plan);
    if (command.values.plan_only) return;

    const work::RunLock lock(comm, out);
    stages::check_output_is_free(command, comm);  // again: another job may have finished it meanwhile
    const auto model = timed(timings, "load", [&] { return stages::load(command, comm, inputs); });
    const auto state = timed(timings, "state", [&] { return stages::open_state(command, comm, inputs, model); });
    const work::Work work{comm, *state, inputs.plan};

    const auto columns =
        timed(timings, "targets", [&] { return inputs.influence->columns(work, inputs.pool, inputs.targets()); });
    stages::Run run{command, inputs, model, work, *columns};
    std::optional<stages::Labels> labels;
    std::optional<stages::Refinement> refinement;
    if (!inputs.propagation) {
        timed(timings, "exact", [&] { stages::compute_pool_exactly(run); });
    } else {
        labels.emplace();
        do {
            timed(timings, "landmarks", [&] { stages::label_more_landmarks(run, *labels); });
            timed(timings, "solve",
                  [&] { inputs.propagation->fit(work, inputs.pool, labels->landmarks, stages::tasks_of(run)); });
        } while (stages::landmarks_worth_adding(run, *labels));
        if (comm.is_root()) say(inputs.propagation->report(stages::tasks_of(run)));
        timed(timings, "propagate", [&] { stages::propagate_to_pool(run, *labels); });
    }
    if (inputs.exact.refine_budget > 0) {
        refinement = timed(timings, "refine", [&] { return stages::refine(run, *labels); });
        run.refinement = &*refinement;
    }
    const auto selection =
        timed(timings, "select", [&] { return stages::select(comm, *inputs.selector, stages::rated_pool(run)); });
    const double gain = refinement ? stages::report_refinement(run, selection) : 0.0;
    stages::write_result(run, {labels ? &*labels : nullptr, gain, selection, timings});
    state->remove();

    say(comm, fmt::format("selected {} of {} samples, {} tokens -> {}", selection.picks.size(), inputs.usable.pool_rows,
                          selection.tokens, out));
    for (const auto& [stage, seconds] : timings) say(comm, fmt::format("  {:<10} {:>9.1f} s", stage, seconds));
}

}  // namespace

void run(const options::Table& table, const options::Values& values, comm::Communicator& comm,
         const std::string& program) {
    const auto chosen = stages::choose_device(values, comm);
    const stages::Command command{table, chosen, program};
    say(comm, fmt::format("{} on {} ranks\n{}", program, comm.size(), options::to_table(table, chosen)));
    stages::check_output_is_free(command, comm);
    if (values.command == options::Command::embed) return stages::embed_pool(command, comm);
    if (values.command == options::Command::select) return stages::select_again(command, comm);
    distill(command, comm);
}

}  // namespace idistill
