#pragma once
// The Error that something throws, to check its fields.

#include <functional>
#include <optional>

#include "idistill/base/error.hpp"

namespace idistill::test {

inline std::optional<Error> error_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Error& error) {
        return error;
    }
    return std::nullopt;
}

}  // namespace idistill::test
