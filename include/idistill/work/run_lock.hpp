#pragma once

#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::work {

/// Keeps two jobs off one result: an fcntl lock on OUT.lock, held by rank 0 for the life of the object, released by the
/// system when the process dies. Rank 0 throws Error(locked) naming host and process of the holder (written into the
/// file). On a file system without locks a warning is all. Open MPI's files that an earlier job left beside those of
/// this one are removed.
class RunLock {
public:
    RunLock(comm::Communicator& communicator, const std::string& out);
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

private:
    std::string path_;
    int descriptor_ = -1;
};

}  // namespace idistill::work
