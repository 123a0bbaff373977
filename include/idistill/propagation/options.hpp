#pragma once
// Options of the propagation and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::propagation {

/// The propagation and its landmarks.
std::vector<options::Option> propagation_options();
std::vector<options::Option> refine_options();

/// An option of a run, for option_kinds.hpp.
options::Option propagation_option(const std::string& name, const std::string& value_name, const std::string& help);

std::string idle_refine(const options::Values& given, const std::string& option);

/// True when influence is propagated from landmarks; otherwise every sample's is computed.
bool propagates(const options::Values& values);

/// True when the best predicted samples get exact influence before selection (--refine); without propagation nothing is
/// predicted.
bool refines(const options::Values& values);

}  // namespace idistill::propagation
