#pragma once
// Settings of the influence of LESS.

#include <string>
#include <vector>

namespace idistill::influence {

/// A model on the way of its training, and the learning rate that its influence counts with.
struct Checkpoint {
    std::string directory;  ///< Hugging Face model directory with optimizer.safetensors
    double rate = 1.0;
};

struct LessSettings {
    std::vector<Checkpoint> checkpoints;  ///< none: --model alone, with --optimizer
    bool bias_correction = true;          ///< false: as LESS's released code
};

}  // namespace idistill::influence
