#pragma once
// Options of inputs, output and the run (run_settings.hpp).

#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::options {

std::vector<Option> input_options();
std::vector<Option> run_options();

}  // namespace idistill::options
