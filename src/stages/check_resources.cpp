// What the command needs against what this machine has, before anything large is loaded.

#include <fmt/format.h>

#include <filesystem>

#include "idistill/comm/node.hpp"
#include "idistill/config/resources.hpp"
#include "run.hpp"

namespace idistill::stages {

void check_resources(const config::Settings& settings, comm::Communicator& comm, const Inputs& inputs) {
    const auto node = comm::node_place(comm);
    auto fullest_node = static_cast<std::int64_t>(node.size);
    comm.all_reduce(std::span(&fullest_node, 1), comm::Reduction::max);
    if (!comm.is_root()) return;
    const auto resources =
        config::estimate(settings, inputs.model, inputs.plan, {comm.size(), static_cast<int>(fullest_node)});
    auto facts = config::read_machine_facts(settings.out);
    // What this run holds already is not missing: its processes, and the state of an earlier start.
    if (facts.free_memory_bytes) *facts.free_memory_bytes += node.size * resources.process_bytes_per_rank;
    const auto state = settings.out + ".state";
    if (facts.free_disk_bytes && std::filesystem::exists(state))
        *facts.free_disk_bytes += static_cast<double>(std::filesystem::file_size(state));
    if (settings.command == config::Command::plan)
        fmt::print("{}", config::describe(settings, inputs.plan, resources, facts));
    else
        config::check_fits(settings, resources, facts);
}

}  // namespace idistill::stages
