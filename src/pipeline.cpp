#include "pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "idistill/io/state_file.hpp"
#include "stages/result_rows.hpp"
#include "stages/run.hpp"
#include "stages/trust_report.hpp"

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

/// Label a few exactly, propagate to all, select (README, "How it works"). Every stage is collective.
void distill(const config::Settings& settings, comm::Communicator& comm, const std::string& program) {
    stages::Timings timings;
    const auto inputs = timed(timings, "plan", [&] { return stages::read_inputs(settings, comm); });
    stages::check_resources(settings, comm, inputs);
    if (settings.command == config::Command::plan) return;

    const io::RunLock lock(comm, settings.out);
    stages::check_output_is_free(settings, comm);  // again: another job may have finished it meanwhile
    const auto model = timed(timings, "load", [&] { return stages::load_model(settings, comm, inputs.model); });
    const auto state = timed(timings, "state", [&] { return stages::open_state(settings, comm, inputs, model); });
    const auto encoders = stages::make_encoders(settings, inputs.plan, model);
    stages::Run run{settings, comm, inputs, model, encoders, *state};

    const auto targets = timed(timings, "targets", [&] { return stages::label_targets(run); });
    std::optional<stages::LandmarkLabels> landmarks;
    std::optional<stages::Propagation> propagation;
    std::optional<stages::Refinement> refinement;
    if (settings.propagation == "none") {
        timed(timings, "exact", [&] { stages::compute_pool_exactly(run, targets); });
    } else {
        landmarks.emplace();
        do {
            timed(timings, "landmarks", [&] { stages::label_more_landmarks(run, targets, *landmarks); });
            propagation.reset();  // that of fewer landmarks
            propagation = timed(timings, "solve", [&] { return stages::solve(run, targets, *landmarks); });
        } while (stages::landmarks_worth_adding(run, *propagation, *landmarks));
        stages::say(comm, stages::trust_report(settings, *propagation));
        timed(timings, "propagate", [&] { stages::propagate_to_pool(run, targets, *landmarks, *propagation); });
    }
    if (config::refines(settings)) {
        refinement = timed(timings, "refine", [&] { return stages::refine(run, targets, *landmarks, *propagation); });
        run.refinement = &*refinement;
    }
    const auto selection = timed(timings, "select", [&] { return stages::select(run, targets); });
    const double gain = refinement ? stages::report_refinement(run, targets, selection) : 0.0;
    stages::write_result(run, {targets, landmarks ? &*landmarks : nullptr, propagation ? &*propagation : nullptr, gain,
                               selection, timings, program});
    state->remove();

    stages::say(comm, fmt::format("selected {} of {} samples, {} tokens -> {}", selection.picks.size(),
                                  inputs.plan.pool_rows, selection.tokens, settings.out));
    for (const auto& [stage, seconds] : timings) stages::say(comm, fmt::format("  {:<10} {:>9.1f} s", stage, seconds));
}

}  // namespace

void run(const config::Settings& settings, comm::Communicator& comm, const std::string& program) {
    stages::say(comm, fmt::format("{} on {} ranks\n{}", program, comm.size(), config::to_table(settings)));
    stages::check_output_is_free(settings, comm);
    if (settings.command == config::Command::embed) return stages::embed_pool(settings, comm, program);
    if (settings.command == config::Command::select) return stages::select_again(settings, comm, program);
    distill(settings, comm, program);
}

}  // namespace idistill
