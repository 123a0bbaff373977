#include "idistill/comm/pointer_file.hpp"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <regex>
#include <system_error>

namespace idistill::comm {

void prefer_pointer_files() { setenv("OMPI_MCA_sharedfp_lockedfile_priority", "100", 0); }

void remove_pointer_files(const std::string& path) {
    const std::filesystem::path beside(path);
    const std::string begin = beside.filename().string();
    const std::regex end("-[0-9]+-[0-9]+\\.lock");
    std::error_code error;
    const auto folder = beside.has_parent_path() ? beside.parent_path() : std::filesystem::path(".");
    for (std::filesystem::directory_iterator entry(folder, error), last; !error && entry != last;
         entry.increment(error)) {
        const auto name = entry->path().filename().string();
        if (name.starts_with(begin) && std::regex_match(name.substr(begin.size()), end)) {
            ::unlink(entry->path().c_str());
        }
    }
}

}  // namespace idistill::comm
