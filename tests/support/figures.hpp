#pragma once
// What a rule writes of a selection.

#include <boost/test/unit_test.hpp>
#include <string>
#include <variant>

#include "idistill/selection/selection.hpp"

namespace idistill::test {

/// The figure of this name, as a number.
inline double figure(const selection::Selection& selection, const std::string& name) {
    for (const auto& one : selection.figures)
        if (one.name == name) return std::visit([](auto value) { return static_cast<double>(value); }, one.value);
    BOOST_FAIL("no figure " + name);
    return 0.0;
}

}  // namespace idistill::test
