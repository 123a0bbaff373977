#pragma once
// Names of the collectives, for messages about ranks that do not arrive; what both back ends know of elements.

#include <cstddef>
#include <cstdint>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

enum class Operation : std::int64_t { start, barrier, broadcast, all_reduce, gather, all_gather };

constexpr const char* name_of(Operation operation) noexcept {
    switch (operation) {
        case Operation::start:
            return "start";
        case Operation::barrier:
            return "barrier";
        case Operation::broadcast:
            return "broadcast";
        case Operation::all_reduce:
            return "all_reduce";
        case Operation::gather:
            return "gather";
        case Operation::all_gather:
            return "all_gather";
    }
    return "?";
}

constexpr std::size_t size_of(ElementType type) noexcept {
    switch (type) {
        case ElementType::u8:
            return 1;
        case ElementType::i32:
        case ElementType::u32:
        case ElementType::f32:
            return 4;
        case ElementType::i64:
        case ElementType::u64:
        case ElementType::f64:
            return 8;
    }
    return 0;
}

inline constexpr const char* restart_remedy =
    "The same command continues the run; where ranks wait long for slow files, give a longer --stall-timeout";

}  // namespace idistill::comm
