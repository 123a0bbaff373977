#pragma once

#include <functional>
#include <string>
#include <vector>

#include "idistill/data/rows.hpp"

namespace idistill::data {

/// Ids of rows, in their order.
using ReadIds = std::function<std::vector<std::string>(RowRange)>;

}  // namespace idistill::data
