#pragma once
// What a user gave for an option, and the strict reading of its values.

#include <charconv>
#include <concepts>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace idistill::config {

/// An option as a user gave it.
struct Given {
    std::string where;  ///< "command line" or "run.toml line 3"
    std::string field;  ///< "--landmarks" or "landmarks"
    std::vector<std::string> values;
};

/// Throws Error(usage) about this option.
[[noreturn]] void refuse(const Given& given, const std::string& expected, const std::string& found,
                         const std::string& remedy);

/// The one value of an option that is not a list.
const std::string& single(const Given& given);

/// NAME=VALUE, split at the first '='; both not empty.
std::pair<std::string, std::string> named(const Given& given, const std::string& text, const std::string& form);

/// The fewest digits that read back as this number.
std::string shortest(double value);

/// The number that the whole text is; nothing when it is none or something follows it.
template <class T>
std::optional<T> whole(const std::string& text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

[[noreturn]] void refuse_number(const Given& given, const std::string& range, const std::string& text);

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

}  // namespace idistill::config
