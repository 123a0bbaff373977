#pragma once
// What the member of member.cpp selects by.

#include <memory>
#include <string>
#include <vector>

#include "idistill/selection/selector.hpp"

namespace idistill::selection {

/// Names of what it writes.
std::vector<std::string> weight_figures();

std::unique_ptr<Selector> make_weighted(const options::Values& values);

}  // namespace idistill::selection
