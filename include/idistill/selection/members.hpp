#pragma once
// The list of selections.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::selection {

class Selector;

struct Member {
    std::string name;
    std::string help;  ///< of its name
    std::unique_ptr<Selector> (*make)(const options::Values& values);
    std::vector<options::Option> (*options)() = nullptr;
    options::IdleRule idle = {};
    void (*check)(const options::Values& meant) = nullptr;  ///< of resolved values; throws Error(usage)
    bool ranks_influence = true;                            ///< otherwise nothing is gained by refining
};

std::span<const Member> members();

}  // namespace idistill::selection
