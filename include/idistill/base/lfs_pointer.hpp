#pragma once

#include <optional>
#include <string>

namespace idistill {

/// Where a Git LFS pointer lies at `path`, a few lines of text in place of a file that was not fetched: how to fetch
/// it.
std::optional<std::string> lfs_remedy(const std::string& path);

}  // namespace idistill
