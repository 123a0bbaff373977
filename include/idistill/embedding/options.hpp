#pragma once
// Options of the embedding and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::embedding {

/// --embedding names different things in a run and in `embed`: it is there twice.
std::vector<options::Option> embedding_options();

std::string idle_embedding(const options::Values& values, const std::string& option);

}  // namespace idistill::embedding
