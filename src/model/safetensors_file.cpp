#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "idistill/base/error.hpp"
#include "idistill/base/lfs_pointer.hpp"
#include "idistill/model/safetensors.hpp"

namespace idistill::model {
using nlohmann::json;

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (const auto extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
    return text + "]";
}

SafetensorsFile::SafetensorsFile(std::string path, std::string remedy)
    : path_(std::move(path)), remedy_(std::move(remedy)) {
    const int descriptor = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        const bool missing = errno == ENOENT;
        throw Error(ExitCode::bad_input, {path_,
                                          {},
                                          "a readable safetensors file",
                                          std::strerror(errno),
                                          missing ? remedy_ : "Check its permissions, and that every node sees it."});
    }
    struct stat status {};
    ::fstat(descriptor, &status);
    size_ = static_cast<std::size_t>(status.st_size);
    void* address = size_ > 0 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
    ::close(descriptor);
    if (address == MAP_FAILED)
        refuse("", "a safetensors file", std::to_string(size_) + " bytes that cannot be mapped", "");
    bytes_ = static_cast<const std::byte*>(address);
    try {
        read_header();
    } catch (...) {
        ::munmap(address, size_);
        throw;
    }
}

SafetensorsFile::~SafetensorsFile() { ::munmap(const_cast<std::byte*>(bytes_), size_); }

void SafetensorsFile::release(const Entry& entry) {
    if (entry.bytes.empty()) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<std::uintptr_t>(entry.bytes.data());
    const auto begin = address / page * page;
    // The mapping is read-only: what is needed again is read again. Where the system refuses, it takes pages by itself.
    static_cast<void>(::madvise(reinterpret_cast<void*>(begin), address + entry.bytes.size() - begin, MADV_DONTNEED));
}

void SafetensorsFile::refuse(const std::string& field, const std::string& expected, const std::string& found,
                             const std::string& cause) const {
    throw Error(ExitCode::bad_input, {path_, field, expected, found, cause.empty() ? remedy_ : cause + " " + remedy_});
}

void SafetensorsFile::read_header() {
    std::uint64_t length = 0;
    if (size_ >= sizeof length) std::memcpy(&length, bytes_, sizeof length);
    if (size_ < sizeof length || length > size_ - sizeof length) {
        if (const auto pointer = lfs_remedy(path_))
            throw Error(ExitCode::bad_input, {path_, {}, "a safetensors file", "a Git LFS pointer", *pointer});
        refuse("header", std::to_string(length) + " bytes of header", "a file of " + std::to_string(size_) + " bytes",
               "The file is cut or not safetensors.");
    }
    const auto* text = reinterpret_cast<const char*>(bytes_ + sizeof length);
    const auto header = json::parse(text, text + length, nullptr, false);
    if (!header.is_object()) refuse("header", "a JSON object", "something else", "The file is damaged.");
    const auto data = bytes().subspan(sizeof length + length);
    for (const auto& [name, value] : header.items()) {
        try {
            if (name == "__metadata__") {
                for (const auto& [key, text_of_key] : value.items())
                    if (text_of_key.is_string()) metadata_[key] = text_of_key.get<std::string>();
                continue;
            }
            const auto begin = value.at("data_offsets").at(0).get<std::size_t>();
            const auto end = value.at("data_offsets").at(1).get<std::size_t>();
            if (begin > end || end > data.size())
                refuse(name, "bytes " + std::to_string(begin) + " to " + std::to_string(end),
                       std::to_string(data.size()) + " bytes of data", "The file is cut.");
            entries_[name] = {value.at("dtype").get<std::string>(), value.at("shape").get<std::vector<std::int64_t>>(),
                              data.subspan(begin, end - begin)};
        } catch (const json::exception& error) {
            refuse(name, "dtype, shape and data_offsets", error.what(), "The file is damaged.");
        }
    }
}

}  // namespace idistill::model
