#pragma once
// Options of the selection, what leaves them without effect, and what `auto` comes to.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"

namespace idistill::selection {

/// The rule, the budget and what caps it.
std::vector<options::Option> selection_options();
std::vector<options::Option> weighted_options();

std::string idle_weighted(const options::Values& values, const std::string& option);

/// A budget of 5 % where none was given.
void complete_budget(options::Values& values);

/// The values with what `auto` of --selection and --order means beside the others: weights to second order, as far as
/// that is possible.
options::Values resolved(options::Values values);

/// Throws Error(usage) where weights lack what they need: second order a strength above 0, by the Hessian a learning
/// rate, and by the Fisher a column for every target sample; a multiple of the mean weight a number of samples.
void check_weighted(const options::Values& meant);

// --- what others ask; of resolved values, or of those that auto would resolve ---

/// True when the number of samples follows from --lambda instead of a budget.
bool leaves_number_open(const options::Values& values);

/// True when weights are chosen by the targets' Hessian, in a run or from an existing result: its factor is needed.
bool uses_hessian(const options::Values& values);

/// The option that keeps the Hessian out; empty where it is used.
std::string against_hessian(const options::Values& values);

/// The option that leaves no best predicted samples to refine: a rule that does not look at influence, or a budget that
/// is open. Empty where there are some.
std::string against_refining(const options::Values& values);

}  // namespace idistill::selection
