#pragma once
// Stages of a network's fit, by name.

namespace idistill::propagation {

inline constexpr const char* target_stage = "target_embeddings";
inline constexpr const char* pair_stage = "network";
inline constexpr const char* sample_stage = "sample_network";

}  // namespace idistill::propagation
