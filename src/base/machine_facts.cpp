// What this machine has left: memory, also under the limits of a job or a container, shared memory, disk.

#include "idistill/base/machine_facts.hpp"

#include <sys/statvfs.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace idistill {
namespace {

/// The longest directory above `path` that exists: where a file system can be asked.
std::string existing_directory(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::path directory = fs::absolute(path, error).parent_path();
    while (!directory.empty() && directory != directory.root_path() && !fs::is_directory(directory, error))
        directory = directory.parent_path();
    return directory.string();
}

std::optional<double> free_bytes(const std::string& path) {
    struct statvfs facts {};
    if (::statvfs(path.c_str(), &facts) != 0) return std::nullopt;
    return static_cast<double>(facts.f_bavail) * static_cast<double>(facts.f_frsize);
}

/// The number that the file holds; none where it says "max".
std::optional<double> number_in(const std::string& path) {
    std::ifstream file(path);
    double value = 0.0;
    if (!(file >> value)) return std::nullopt;
    return value;
}

/// The number behind `key`, of a file with a key and a number on every line.
std::optional<double> number_of(const std::string& path, const std::string& key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string word;
        double value = 0.0;
        if (words >> word >> value && word == key) return value;
    }
    return std::nullopt;
}

std::optional<double> smaller(const std::optional<double>& a, const std::optional<double>& b) {
    if (!a || !b) return a ? a : b;
    return std::min(*a, *b);
}

/// Where a version of the memory cgroups tells limit, use, and which part of the use is cache that can be dropped, the
/// groups below included.
struct Hierarchy {
    std::string mount, limit, usage, cache;
};
const Hierarchy version_1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                          "total_inactive_file"};
const Hierarchy version_2{"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};

/// What is left in a cgroup and in those above it.
std::optional<double> left_in(const std::string& root, const Hierarchy& files, const std::string& group) {
    std::optional<double> least;
    std::filesystem::path path = std::filesystem::path(group).lexically_normal();
    for (bool top = false; !top; path = path.parent_path()) {
        top = path == path.parent_path();
        const std::string directory = root + files.mount + path.string() + "/";
        const auto limit = number_in(directory + files.limit);
        const auto usage = number_in(directory + files.usage);
        if (!limit || !usage) continue;
        const double cache = number_of(directory + "memory.stat", files.cache).value_or(0.0);
        least = smaller(least, std::max(0.0, *limit - *usage + cache));
    }
    return least;
}

}  // namespace

std::optional<double> read_free_memory(const std::string& root) {
    auto least = number_of(root + "/proc/meminfo", "MemAvailable:");
    if (least) *least *= 1024.0;
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // number:controllers:path
        const auto first = line.find(':');
        const auto second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const std::string path = line.substr(second + 1);
        if (controllers == ",,") least = smaller(least, left_in(root, version_2, path));
        if (controllers.find(",memory,") != std::string::npos) least = smaller(least, left_in(root, version_1, path));
    }
    return least;
}

MachineFacts read_machine_facts(const std::string& out) {
    return {read_free_memory(), free_bytes("/dev/shm"), free_bytes(existing_directory(out))};
}

}  // namespace idistill
