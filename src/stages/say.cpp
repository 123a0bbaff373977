#include <cstdio>

#include "run.hpp"

namespace idistill::stages {

void say(comm::Communicator& comm, const std::string& text) {
    if (comm.is_root()) std::fprintf(stderr, "%s\n", text.c_str());
}

}  // namespace idistill::stages
