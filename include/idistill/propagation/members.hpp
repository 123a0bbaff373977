#pragma once
// The list of propagations.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::propagation {

class Propagation;

struct Member {
    std::string name;
    std::string help;  ///< what stands behind its name in --help
    std::unique_ptr<Propagation> (*make)(const options::Values& values);
    std::vector<options::Option> (*options)() = nullptr;
    options::IdleRule idle = {};
};

std::span<const Member> members();

}  // namespace idistill::propagation
