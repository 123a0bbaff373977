#pragma once
// A folder that all ranks of a test use.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ranks.hpp"
#include "token_files.hpp"

namespace idistill::test {

/// A folder that rank 0 makes and removes, and all know.
class SharedFolder {
public:
    SharedFolder() {
        std::vector<std::uint8_t> name;
        if (world().is_root()) {
            mine_.emplace();
            const std::string path = *mine_ / "";
            name.assign(path.begin(), path.end());
        }
        const auto all = world().all_gather<std::uint8_t>(name);
        path_.assign(all[0].begin(), all[0].end());
    }
    ~SharedFolder() { world().barrier(); }
    SharedFolder(const SharedFolder&) = delete;
    SharedFolder& operator=(const SharedFolder&) = delete;

    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + name; }

private:
    std::optional<TemporaryFolder> mine_;
    std::string path_;
};

}  // namespace idistill::test
