#pragma once
// The list of influence functions.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::influence {

class Influence;

/// Heading of the options of all influence functions.
inline constexpr const char* option_group = "Influence (exact, of targets and landmarks)";

struct Member {
    std::string name;
    std::string help;  ///< of its name
    std::unique_ptr<Influence> (*make)(const options::Values& values);
    std::vector<options::Option> (*options)() = nullptr;
    options::IdleRule idle = {};
    std::vector<std::string> of_extras = {};   ///< its options without effect unless a selection uses extras
    std::vector<std::string> of_columns = {};  ///< and where every sample is computed, on columns of tasks
};

std::span<const Member> members();

/// The option that names the influence function.
std::vector<options::Option> influence_options();

}  // namespace idistill::influence
