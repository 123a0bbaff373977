#pragma once
// What the user is told about how far the propagation can be trusted.

#include <string>

#include "run.hpp"

namespace idistill::stages {

/// Table of leave-one-out figures per task beside those of 'source name alone', the damping in use, and a warning in
/// plain words where they are low.
std::string trust_report(const config::Settings& settings, const Propagation& propagation);

}  // namespace idistill::stages
