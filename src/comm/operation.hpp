#pragma once
// Names of the collectives, for messages about ranks that do not arrive; what both back ends know of elements.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

enum class Operation : std::int64_t {
    start,
    barrier,
    broadcast,
    all_reduce,
    gather,
    all_gather,
    connect_devices,
    device_broadcast,
    device_all_reduce,
    release_devices,
    end
};

constexpr const char* name_of(Operation operation) noexcept {
    constexpr const char* names[] = {"start",
                                     "barrier",
                                     "broadcast",
                                     "all_reduce",
                                     "gather",
                                     "all_gather",
                                     "connection of the GPUs",
                                     "broadcast between GPUs",
                                     "all_reduce between GPUs",
                                     "release of the GPUs"};
    static_assert(std::size(names) == static_cast<std::size_t>(Operation::end));
    return names[static_cast<std::size_t>(operation)];
}

constexpr std::size_t size_of(ElementType type) noexcept {
    constexpr std::size_t sizes[] = {1, 4, 8, 4, 8, 4, 8};  // in the order of ElementType
    static_assert(std::size(sizes) == static_cast<std::size_t>(ElementType::end));
    return sizes[static_cast<std::size_t>(type)];
}

/// Calls `move` with (first element, elements) of one piece after the other.
template <class Move>
void in_pieces(std::size_t count, std::size_t piece, const Move& move) {
    for (std::size_t first = 0; first < count; first += piece) move(first, std::min(piece, count - first));
}

inline constexpr const char* restart_remedy =
    "The same command continues the run; where ranks wait long for slow files, give a longer --stall-timeout";

}  // namespace idistill::comm
