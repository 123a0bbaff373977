#include "idistill/comm/node.hpp"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <vector>

namespace idistill::comm {

std::string host_name() {
    std::array<char, 256> name{};
    if (gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "unknown host";
    return name.data();
}

NodePlace node_place(Communicator& communicator) {
    const std::string mine = host_name();
    const auto all = communicator.all_gather(mine);
    NodePlace place{0, 0};
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
        if (all[rank] != mine) continue;
        if (static_cast<int>(rank) < communicator.rank()) ++place.rank;
        ++place.size;
    }
    return place;
}

}  // namespace idistill::comm
