#pragma once
// Options that several members share: how they compare samples, and how they maximise (Member::by_similarity).

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::selection {

std::vector<options::Option> similarity_options();
/// For Table::idle: of these options, what leaves them without effect.
std::string idle_of_similarity(const options::Values& values, const std::string& option);

}  // namespace idistill::selection
