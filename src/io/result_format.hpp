#pragma once

#include <cstdint>
#include <string_view>

namespace idistill::io {

inline constexpr std::string_view result_format = "idistill-weights";
inline constexpr std::int64_t result_version = 1;

}  // namespace idistill::io
