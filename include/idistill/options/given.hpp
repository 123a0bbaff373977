#pragma once
// What a user gave for an option, and the strict reading of its values.

#include <concepts>
#include <string>
#include <utility>
#include <vector>

#include "idistill/base/text.hpp"

namespace idistill::options {

/// An option as a user gave it.
struct Given {
    std::string where;  ///< "command line" or "run.toml line 3"
    std::string field;  ///< "--landmarks" or "landmarks"
    std::vector<std::string> values;
};

inline constexpr const char* command_line = "command line";

/// Throws Error(usage) about this option.
[[noreturn]] void refuse(const Given& given, const std::string& expected, const std::string& found,
                         const std::string& remedy);

[[noreturn]] void refuse_number(const Given& given, const std::string& range, const std::string& text);

/// The one value of an option that is not a list.
const std::string& single(const Given& given);

/// NAME=VALUE, split at the first '='; both not empty.
std::pair<std::string, std::string> named(const Given& given, const std::string& text, const std::string& form);

/// The number in [low, high] that the whole text is.
template <class T>
T number_within(const Given& given, const std::string& text, T low, T high) {
    const auto value = whole<T>(text);
    if (value && *value >= low && *value <= high) return *value;
    if constexpr (std::floating_point<T>) {
        refuse_number(given, "a number from " + shortest(low) + " to " + shortest(high), text);
    } else {
        refuse_number(given, "a whole number from " + std::to_string(low) + " to " + std::to_string(high), text);
    }
}

}  // namespace idistill::options
