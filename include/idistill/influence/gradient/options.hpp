#pragma once
// Options of the gradient influence and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::influence {

std::vector<options::Option> gradient_options();

std::string idle_gradient(const options::Values& values, const std::string& option);

}  // namespace idistill::influence
