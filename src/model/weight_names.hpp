#pragma once

#include <string>

namespace idistill::model {

inline const std::string embedding_name = "model.embed_tokens.weight";
inline const std::string final_norm_name = "model.norm.weight";
inline const std::string head_name = "lm_head.weight";

}  // namespace idistill::model
