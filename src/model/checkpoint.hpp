#pragma once
// The weight files of a model directory: which of them count, and in which of them each tensor lies.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "idistill/model/decoder.hpp"
#include "idistill/model/safetensors.hpp"

namespace idistill::model {

/// Bytes of a number of a safetensors type that can be converted to float32; 0 of another.
[[nodiscard]] std::size_t number_bytes(const std::string& dtype) noexcept;

/// What transformers would load: model.safetensors, where there is one, whatever an index beside it says; otherwise all
/// that lies in the files which the index names, the later file by name where two have the same tensor.
class Checkpoint {
public:
    /// With a tied embedding, files may have it under the head's name alone. Throws Error(bad_input) naming the file,
    /// from the headers alone.
    Checkpoint(const std::string& directory, bool tied_embedding);

    /// The tensor of this name in the files, or null.
    [[nodiscard]] const SafetensorsFile::Entry* find(const std::string& name) const;
    /// The slot's tensor, of its shape and of a type that can be converted. Throws Error(bad_input).
    const SafetensorsFile::Entry& at(const WeightSlot& slot) const;

    /// That both kinds of weights are there; empty where they are not.
    [[nodiscard]] const std::string& note() const noexcept { return note_; }

private:
    void open_index(const std::string& directory);
    void open(const std::string& path);

    std::vector<std::unique_ptr<SafetensorsFile>> files_;
    struct Tensor {
        const SafetensorsFile* file = nullptr;
        const SafetensorsFile::Entry* entry = nullptr;
    };
    std::map<std::string, Tensor> tensors_;
    std::string place_;  ///< index file or single file, for messages
    std::string note_;
};

}  // namespace idistill::model
