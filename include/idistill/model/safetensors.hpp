#pragma once
// Safetensors files, named tensors behind a JSON header, mapped and not copied; the weights that a folder of them has.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "idistill/model/place.hpp"

namespace idistill::model {

struct WeightLayout;  // decoder.hpp
class Decoder;        // decoder.hpp

/// A mapped file: 8 bytes of header length, a JSON header, then the tensors' bytes. Its header is read and checked
/// against the file's size when it is opened.
class SafetensorsFile {
public:
    /// A tensor as the file has it: type ("F32"), shape, and bytes that are at no particular alignment. Whether type,
    /// shape and number of bytes fit together is for the reader to check.
    struct Entry {
        std::string dtype;
        std::vector<std::int64_t> shape;
        std::span<const std::byte> bytes;
    };

    /// Throws Error(bad_input) naming file and tensor for a file that cannot be read, is cut or is something else;
    /// `remedy` ends its message.
    SafetensorsFile(std::string path, std::string remedy);
    ~SafetensorsFile();
    SafetensorsFile(const SafetensorsFile&) = delete;
    SafetensorsFile& operator=(const SafetensorsFile&) = delete;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] const std::map<std::string, Entry>& entries() const noexcept { return entries_; }
    /// The header's texts beside the tensors ("__metadata__").
    [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
    /// The whole file.
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {bytes_, size_}; }
    /// Gives the memory of a tensor back once it is read: a file as large as the model would stay beside it.
    static void release(const Entry& entry);

private:
    [[noreturn]] void refuse(const std::string& field, const std::string& expected, const std::string& found,
                             const std::string& cause) const;
    void read_header();

    std::string path_, remedy_;
    std::size_t size_ = 0;
    const std::byte* bytes_ = nullptr;
    std::map<std::string, Entry> entries_;
    std::map<std::string, std::string> metadata_;
};

/// A model directory after its check.
struct CheckedModel {
    ModelConfig config;              ///< not tied where the files have a head of its own
    std::vector<std::string> notes;  ///< what of its files a user should know
};

/// Reads config.json, and that DIR has the weights whole, from the headers of its files alone. Throws as
/// read_model_config and read_weights.
CheckedModel check_model(const std::string& directory);

/// Reads the safetensors of DIR (single file or sharded by index) into `memory` as float32. Returns the sha256 of all
/// tensors' names and stored bytes, independent of how they are sharded. Throws Error(bad_input) naming file and
/// tensor: missing tensor, wrong shape, unsupported storage type, cut file. `memory` must have layout.bytes bytes.
std::string read_weights(const std::string& model_directory, const WeightLayout& layout, std::span<std::byte> memory);

/// The same weights where they are computed with, tensor by tensor. `sha256` (null: not wanted) as of read_weights.
Decoder read_decoder(const std::string& model_directory, const ModelConfig& config, const Place& place,
                     std::string* sha256);

/// "[576, 1536]".
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace idistill::model
