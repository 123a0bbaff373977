#pragma once
// All options of the program: the one place that knows every module's.

#include "idistill/options/table.hpp"

namespace idistill {

const options::Table& program_options();

}  // namespace idistill
