#pragma once
// The text of --help.

#include <string>

#include "idistill/config/settings.hpp"

namespace idistill::config {

std::string help(Command command);

}  // namespace idistill::config
