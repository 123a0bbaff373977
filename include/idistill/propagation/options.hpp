#pragma once
// Options of the propagation and what leaves them without effect.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::propagation {

/// The propagation and its landmarks.
std::vector<options::Option> propagation_options();
std::vector<options::Option> kernel_ridge_options();
std::vector<options::Option> refine_options();

/// Without propagation these options have no effect, nor those of the embedding.
std::string idle_propagation(const options::Values& values, const std::string& option);
std::string idle_kernel_ridge(const options::Values& values, const std::string& option);

/// True when influence is propagated from landmarks; otherwise every sample's is computed.
bool propagates(const options::Values& values);

/// True when the best predicted samples get exact influence before selection (--refine); without propagation nothing is
/// predicted, and the random rule does not look at influence.
bool refines(const options::Values& values);

}  // namespace idistill::propagation
