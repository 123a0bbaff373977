#pragma once
// The checkpoints that influence is summed over: which, and whether their files fit together.

#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "idistill/options/values.hpp"
#include "settings.hpp"

namespace idistill::influence {

/// Those of --checkpoint; without it --model, counted once.
std::vector<Checkpoint> checkpoints_of(const options::Values& values);

/// Its optimizer's state.
std::string state_of(const Checkpoint& checkpoint);

/// Throws Error(bad_input) for a directory without a whole model or without optimizer.safetensors, and naming both for
/// one whose config.json or tokenizer is not that of `model`, whose config is given.
void check_checkpoint(const Checkpoint& checkpoint, const std::string& model, const model::ModelConfig& config);

}  // namespace idistill::influence
