#pragma once

#include <string>
#include <vector>

#include "idistill/work/state_file.hpp"

namespace idistill::work {

/// What a state file belongs to, as one flat JSON object: the run's identity and the sizes and units of its stages.
std::string state_identity(const std::string& identity, const std::vector<StateStage>& stages);

/// Throws Error(state_mismatch) naming every key that differs, with the stored and the wanted value. One rank.
void require_same_identity(const std::string& path, const std::string& wanted);

}  // namespace idistill::work
