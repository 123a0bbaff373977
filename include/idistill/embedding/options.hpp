#pragma once
// Options of the embedding and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::embedding {

/// Heading of the options of embeddings and of what carries influence by them.
inline constexpr const char* option_group = "Propagation (from landmarks to the pool)";

/// --embedding names different things in a run and in `embed`: it is there twice.
std::vector<options::Option> embedding_options();

std::string idle_embedding(const options::Values& values, const std::string& option);

}  // namespace idistill::embedding
