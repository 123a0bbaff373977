#pragma once

#include <boost/test/unit_test.hpp>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::test {

/// The Failure that `action` throws, with its code; the test fails if it throws none.
template <class Action>
Failure failure_of(ExitCode code, Action action) {
    try {
        action();
    } catch (const Error& error) {
        BOOST_TEST(static_cast<int>(error.code()) == static_cast<int>(code), error.what());
        return error.failure();
    }
    BOOST_ERROR("nothing was thrown");
    return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace idistill::test
