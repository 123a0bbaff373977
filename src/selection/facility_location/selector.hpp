#pragma once
// What the members of member.cpp select by.

#include <memory>
#include <string>

#include "idistill/selection/selector.hpp"

namespace idistill::selection {

enum class FacilityForm { plain, mutual_information, conditional_gain };

/// Names of what all forms write.
std::vector<std::string> subset_figures();

template <FacilityForm form>
std::unique_ptr<Selector> make_facility_location(const options::Values& values);

}  // namespace idistill::selection
