#include "idistill/options/given.hpp"

#include "idistill/base/error.hpp"

namespace idistill::options {

void refuse(const Given& given, const std::string& expected, const std::string& found, const std::string& remedy) {
    throw Error(ExitCode::usage, {given.where, given.field, expected, found, remedy});
}

void refuse_number(const Given& given, const std::string& range, const std::string& text) {
    refuse(given, range, in_quotes(text), "Give " + given.field + " a value in this range.");
}

const std::string& single(const Given& given) {
    if (given.values.size() != 1) {
        refuse(given, "one value", std::to_string(given.values.size()) + " values", "Give " + given.field + " once.");
    }
    return given.values.front();
}

std::pair<std::string, std::string> named(const Given& given, const std::string& text, const std::string& form) {
    const auto equals = text.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == text.size()) {
        refuse(given, form, in_quotes(text), "Write " + given.field + " " + form + ".");
    }
    return {text.substr(0, equals), text.substr(equals + 1)};
}

}  // namespace idistill::options
