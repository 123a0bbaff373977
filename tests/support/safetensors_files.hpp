#pragma once
// safetensors files for tests, right ones and damaged ones.

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace idistill::test {

/// A tensor as a file has it, whether it makes sense or not.
struct Stored {
    std::string dtype = "F32";
    std::vector<std::int64_t> shape;
    std::string bytes;
};
using Tensors = std::map<std::string, Stored>;
using Metadata = std::map<std::string, std::string>;

inline std::string file_of(const std::string& header, const std::string& data) {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + data;
}

inline nlohmann::json header_of(const Tensors& tensors, const Metadata& metadata = {{"format", "pt"}}) {
    nlohmann::json header{{"__metadata__", metadata}};
    std::size_t at = 0;
    for (const auto& [name, tensor] : tensors) {
        header[name] = {
            {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {at, at + tensor.bytes.size()}}};
        at += tensor.bytes.size();
    }
    return header;
}

inline std::string data_of(const Tensors& tensors) {
    std::string data;
    for (const auto& [name, tensor] : tensors) data += tensor.bytes;
    return data;
}

inline std::string file_of(const Tensors& tensors, const Metadata& metadata = {{"format", "pt"}}) {
    return file_of(header_of(tensors, metadata).dump(), data_of(tensors));
}

inline void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

}  // namespace idistill::test
