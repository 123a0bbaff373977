#pragma once
// Options of the influence of LESS and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::influence {

std::vector<options::Option> less_options();

/// Also of those that it shares with the gradient influence.
std::string idle_less(const options::Values& values, const std::string& option);

}  // namespace idistill::influence
