#pragma once

#include "idistill/base/log.hpp"
#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Rank 0 says something to the user.
inline void say(const Communicator& communicator, const std::string& text) {
    if (communicator.is_root()) idistill::say(text);
}

}  // namespace idistill::comm
