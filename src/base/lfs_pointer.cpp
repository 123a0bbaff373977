#include "idistill/base/lfs_pointer.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <string_view>

namespace idistill {

std::optional<std::string> lfs_remedy(const std::string& path) {
    constexpr std::string_view beginning = "version https://git-lfs.github.com/spec/";
    std::string found(beginning.size(), '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(found.data(), static_cast<std::streamsize>(found.size())) || found != beginning) return std::nullopt;
    const auto folder = std::filesystem::path(path).parent_path().string();
    return fmt::format("Git LFS has put a pointer in place of the file: fetch it with `git -C {} lfs pull`.",
                       folder.empty() ? "." : folder);
}

}  // namespace idistill
