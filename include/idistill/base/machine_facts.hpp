#pragma once
// What the machine has.

#include <optional>
#include <string>

namespace idistill {

/// Nothing where the machine does not say.
struct MachineFacts {
    std::optional<double> free_memory_bytes;         ///< read_free_memory()
    std::optional<double> free_shared_memory_bytes;  ///< /dev/shm
    std::optional<double> free_disk_bytes;           ///< where `out` will be
};
MachineFacts read_machine_facts(const std::string& out);

/// What this process can still take: the least of MemAvailable and what the limits of its memory cgroups (version 1 or
/// 2, its own and all above) leave, where cache that can be dropped counts as free. `root`: before /proc and /sys.
std::optional<double> read_free_memory(const std::string& root = {});

}  // namespace idistill
