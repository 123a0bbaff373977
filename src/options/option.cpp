#include "idistill/options/option.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>  // join

#include <nlohmann/json.hpp>

namespace idistill::options {

std::string shown(const nlohmann::json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
    if (value.is_number_float()) return shortest(value.get<double>());
    if (!value.is_array()) return value.dump();
    std::vector<std::string> entries;
    for (const auto& entry : value) entries.push_back(shown(entry));
    return fmt::format("{}", fmt::join(entries, ", "));
}

}  // namespace idistill::options
