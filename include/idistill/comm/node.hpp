#pragma once
// Where a rank lives: the name of its host and its place among the ranks of the same host.

#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// This host's name as the operating system gives it.
std::string host_name();

/// Place among the ranks of one host, in the order of their ranks.
struct NodePlace {
    int rank = 0;
    int size = 1;
};

/// Collective. Ranks with equal host names share a node.
NodePlace node_place(Communicator& communicator);

}  // namespace idistill::comm
