#pragma once
// What a run and `embed` share in reading their inputs.

#include "run.hpp"

namespace idistill::stages {

config::CorpusShape shape_of(const data::Corpus& corpus);

/// Collective. Throws Error(internal_error) unless all ranks made the same plan.
void check_plans_agree(comm::Communicator& comm, std::uint64_t hash);

/// What the weights alone do not say of the function that the model computes.
std::string geometry(const config::ModelConfig& c);

}  // namespace idistill::stages
