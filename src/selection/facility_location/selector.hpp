#pragma once
// What the members of member.cpp select by.

#include <memory>
#include <string>

#include "idistill/selection/selector.hpp"

namespace idistill::selection {

enum class FacilityForm { plain, mutual_information, conditional_gain };

inline const std::string similarity_auto = "auto", similarity_influence = "influence", similarity_network = "network";
bool is_similarity_file(const std::string& text);

template <FacilityForm form>
std::unique_ptr<Selector> make_facility_location(const options::Values& values);

}  // namespace idistill::selection
