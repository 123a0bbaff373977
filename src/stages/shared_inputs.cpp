#include "shared_inputs.hpp"

#include <fmt/format.h>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"

namespace idistill::stages {
plan::CorpusShape shape_of(const data::Corpus& corpus) {
    plan::CorpusShape shape{corpus.index(), {}};
    for (const auto& file : corpus.files()) shape.files.push_back({file.size(), file.max_length()});
    return shape;
}

void check_plans_agree(comm::Communicator& comm, std::uint64_t hash) {
    const auto all = comm.all_gather(std::span<const std::uint64_t>(&hash, 1));
    for (std::size_t rank = 0; rank < all.size(); ++rank)
        if (all[rank][0] != all[0][0])
            throw Error(ExitCode::internal_error,
                        {"plan", "hash of rank " + std::to_string(rank), std::to_string(all[0][0]),
                         std::to_string(all[rank][0]),
                         "The ranks see different files or run different programs: check the nodes' file systems."});
}

nlohmann::json common_identity(const Command& command, const model::ModelConfig& config,
                               const model::LoadedModel& model, const data::Corpus& pool, const plan::Plan& plan) {
    auto identity = nlohmann::json::parse(options::identity_json(command.table, command.values));
    identity["model sha256"] = model.sha256;
    identity["model geometry"] = model::geometry(config);
    identity["pool sha256"] = pool.index().content_sha256;
    identity["stage"]["plan hash"] = fmt::format("{:016x}", plan.hash());
    return identity;
}

std::unique_ptr<work::StateFile> continue_state(const Command& command, comm::Communicator& comm,
                                                const plan::Plan& plan, const std::string& identity) {
    auto state =
        std::make_unique<work::StateFile>(comm, command.inputs().out + ".state", identity, work::state_layout(plan));
    if (state->units_recovered() > 0)
        say(comm, fmt::format("continuing: {} units of an earlier run are kept", state->units_recovered()));
    return state;
}

}  // namespace idistill::stages
