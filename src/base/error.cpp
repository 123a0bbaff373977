#include "idistill/base/error.hpp"

#include <utility>

namespace idistill {
namespace {

std::string message(const Failure& failure) {
    std::string text = failure.where;
    const auto add = [&text](const char* separator, const std::string& part) {
        if (!part.empty()) text += (text.empty() ? "" : separator) + part;
    };
    add(": ", failure.field);
    if (!failure.expected.empty()) add(": ", "expected " + failure.expected);
    if (!failure.found.empty()) add(failure.expected.empty() ? ": " : ", ", "found " + failure.found);
    if (!failure.remedy.empty()) add(". ", failure.remedy);
    return text;
}

}  // namespace

Error::Error(ExitCode code, Failure failure)
    : std::runtime_error(message(failure)), code_(code), failure_(std::move(failure)) {}

}  // namespace idistill
