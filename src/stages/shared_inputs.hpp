#pragma once
// What a run and `embed` share in reading their inputs.

#include "run.hpp"

namespace idistill::stages {

plan::CorpusShape shape_of(const data::Corpus& corpus);

/// Collective. Throws Error(internal_error) unless all ranks made the same plan.
void check_plans_agree(comm::Communicator& comm, std::uint64_t hash);

/// What decides the numbers of a run beside its members: settings, model, pool, plan.
nlohmann::json common_identity(const Command& command, const model::ModelConfig& config,
                               const model::LoadedModel& model, const data::Corpus& pool, const plan::Plan& plan);

/// Opens OUT.state, and says how much of an earlier start is kept.
std::unique_ptr<work::StateFile> continue_state(const Command& command, comm::Communicator& comm,
                                                const plan::Plan& plan, const std::string& identity);

}  // namespace idistill::stages
