#pragma once

#include <string>

namespace idistill::influence {

/// --influence: a name of members.cpp.
struct InfluenceSettings {
    std::string member = "gradient";
};

}  // namespace idistill::influence
