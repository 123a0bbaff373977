#pragma once

#include <cstring>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

template <class T>
std::vector<std::vector<T>> Communicator::split(const std::vector<std::vector<std::byte>>& parts) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<std::vector<T>> values(parts.size());
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
        values[rank].resize(parts[rank].size() / sizeof(T));
        if (!parts[rank].empty()) std::memcpy(values[rank].data(), parts[rank].data(), parts[rank].size());
    }
    return values;
}

}  // namespace idistill::comm
