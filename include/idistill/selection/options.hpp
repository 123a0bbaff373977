#pragma once
// Options of the selection, what leaves them without effect, and what `auto` comes to.

#include <string>
#include <vector>

#include "idistill/options/option.hpp"
#include "idistill/options/values.hpp"
#include "idistill/selection/members.hpp"

namespace idistill::selection {

/// The rule, the budget and what caps it.
std::vector<options::Option> selection_options();

/// An option of a run and of `select`, for option_kinds.hpp.
options::Option selection_option(const std::string& name, const std::string& value_name, const std::string& help,
                                 options::Decides decides, const std::vector<options::Word>& words = {});

/// The chosen member's budget where none was given.
void complete_budget(options::Values& values);

/// The values with what `auto` means beside the others.
options::Values resolved(options::Values values);

/// Throws Error(usage) for resolved values that the selection they choose cannot meet.
void check(const options::Values& meant);

// --- what others ask, of values as they were given; the option in the way, empty where none is -----------------------

/// The option that keeps this member from being the one that selects.
std::string against_choice(const options::Values& given, const Member& member);

/// The option that keeps the selection from using the extras of influence.
std::string against_extras(const options::Values& given);

/// The option that keeps --refine from selecting again.
std::string against_refining(const options::Values& given);

}  // namespace idistill::selection
