#pragma once
// The option that names the influence function.

#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::influence {

std::vector<options::Option> influence_options();

}  // namespace idistill::influence
