#pragma once
// All kinds of sketches, and how a message names one.

#include <array>
#include <ostream>

#include "idistill/influence/gradient/settings.hpp"

namespace idistill::influence {

inline std::ostream& operator<<(std::ostream& out, SketchKind kind) {
    switch (kind) {
        case SketchKind::tensor:
            return out << "tensor";
        case SketchKind::kronecker:
            return out << "kronecker";
        case SketchKind::hadamard:
            return out << "hadamard";
        case SketchKind::rademacher:
            return out << "rademacher";
        case SketchKind::none:
            break;
    }
    return out << "none";
}

}  // namespace idistill::influence

namespace idistill::test {

using influence::SketchKind;

inline constexpr std::array sketch_kinds{SketchKind::tensor, SketchKind::kronecker, SketchKind::hadamard,
                                         SketchKind::rademacher, SketchKind::none};

}  // namespace idistill::test
