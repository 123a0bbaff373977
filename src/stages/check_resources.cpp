// What the command needs against what this machine has, before anything large is loaded.

#include <fmt/format.h>

#include <filesystem>

#include "idistill/comm/node.hpp"
#include "idistill/config/resources.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

struct Placed {
    config::RankLayout layout;
    int here = 1;  ///< ranks on this node
};

/// Collective.
Placed placed(comm::Communicator& comm) {
    const int here = comm::node_place(comm).size;
    auto fullest_node = static_cast<std::int64_t>(here);
    comm.all_reduce(std::span(&fullest_node, 1), comm::Reduction::max);
    return {{comm.size(), static_cast<int>(fullest_node)}, here};
}

/// The processes themselves, which are there already, are not missing.
config::MachineFacts facts_beside(int processes, const config::Settings& settings, const config::Resources& resources) {
    auto facts = config::read_machine_facts(settings.out);
    if (facts.free_memory_bytes) *facts.free_memory_bytes += processes * resources.process_bytes_per_rank;
    return facts;
}

}  // namespace

void check_resources(const config::Settings& settings, comm::Communicator& comm, const Inputs& inputs) {
    const auto [layout, here] = placed(comm);
    if (!comm.is_root()) return;
    const auto resources = config::estimate(settings, inputs.model, inputs.plan, layout);
    auto facts = facts_beside(here, settings, resources);
    // Nor is the state of an earlier start.
    const auto state = settings.out + ".state";
    if (facts.free_disk_bytes && std::filesystem::exists(state))
        *facts.free_disk_bytes += static_cast<double>(std::filesystem::file_size(state));
    if (settings.command == config::Command::plan) {
        fmt::print("{}", config::describe(settings, inputs.plan, resources, facts));
        const auto folder = std::filesystem::absolute(settings.out).parent_path();
        if (!std::filesystem::is_directory(folder))
            fmt::print("{} is not there yet: the run needs this folder.\n", folder.string());
        if (!settings.overwrite && std::filesystem::exists(settings.out))
            fmt::print("{} is there already: the run needs --overwrite, or another --out.\n", settings.out);
    }
    config::check_fits(settings, resources, facts);
}

void check_selection_resources(const config::Settings& settings, comm::Communicator& comm, config::ResultShape result) {
    const auto [layout, here] = placed(comm);
    if (!comm.is_root()) return;
    result.bytes = static_cast<double>(std::filesystem::file_size(settings.result));
    const auto resources = config::estimate_selection(settings, result, layout);
    config::check_fits(settings, resources, facts_beside(here, settings, resources));
}

}  // namespace idistill::stages
