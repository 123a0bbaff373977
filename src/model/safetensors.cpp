#include "idistill/model/safetensors.hpp"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "idistill/base/error.hpp"
#include "idistill/data/sha256.hpp"
#include "idistill/model/decoder.hpp"

namespace idistill::model {
namespace {

using nlohmann::json;

[[noreturn]] void fail(std::string where, std::string field, std::string expected, std::string found,
                       std::string remedy) {
    throw Error(ExitCode::bad_input,
                {std::move(where), std::move(field), std::move(expected), std::move(found), std::move(remedy)});
}

const std::string copy_again = "Copy the model again.";

/// The files of a model directory and in which of them each tensor lies.
struct Checkpoint {
    std::vector<std::unique_ptr<SafetensorsFile>> files;
    std::map<std::string, const SafetensorsFile*> file_of;
    std::string place;  ///< index file or single file, for messages
};

Checkpoint open_checkpoint(const std::string& directory) {
    const std::filesystem::path base(directory);
    const auto index_path = base / "model.safetensors.index.json";
    Checkpoint checkpoint;
    if (!std::filesystem::exists(index_path)) {
        checkpoint.place = (base / "model.safetensors").string();
        if (!std::filesystem::exists(checkpoint.place))
            fail(directory, "", "model.safetensors or model.safetensors.index.json", "neither",
                 "Save the model with transformers' save_pretrained (safetensors is its default).");
        checkpoint.files.push_back(std::make_unique<SafetensorsFile>(checkpoint.place, copy_again));
        for (const auto& [name, entry] : checkpoint.files[0]->entries())
            checkpoint.file_of[name] = checkpoint.files[0].get();
        return checkpoint;
    }
    checkpoint.place = index_path.string();
    std::ifstream stream(index_path);
    const auto index = json::parse(stream, nullptr, false);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
        fail(checkpoint.place, "weight_map", "a JSON object of tensor -> file", "something else", copy_again);
    std::map<std::string, const SafetensorsFile*> opened;
    for (const auto& [name, file] : index["weight_map"].items()) {
        if (!file.is_string()) fail(checkpoint.place, name, "a file name", file.dump(), copy_again);
        auto& shard = opened[file.get<std::string>()];
        if (shard == nullptr) {
            checkpoint.files.push_back(
                std::make_unique<SafetensorsFile>((base / file.get<std::string>()).string(), copy_again));
            shard = checkpoint.files.back().get();
        }
        if (!shard->entries().contains(name))
            fail(shard->path(), name, "the tensor that " + checkpoint.place + " promises", "none", copy_again);
        checkpoint.file_of[name] = shard;
    }
    return checkpoint;
}

template <class T>
void convert(std::span<const std::byte> from, float* to) {
    const std::size_t count = from.size() / sizeof(T);
    for (std::size_t i = 0; i < count; ++i) {
        T value;  // the file promises no alignment
        std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
        to[i] = static_cast<float>(value);
    }
}

/// The slot's tensor, of its shape and of a type that can be converted.
const SafetensorsFile::Entry& stored(const Checkpoint& checkpoint, const WeightSlot& slot) {
    const auto found = checkpoint.file_of.find(slot.name);
    if (found == checkpoint.file_of.end())
        fail(checkpoint.place, slot.name, "this tensor, which config.json asks for", "none",
             slot.name == "lm_head.weight" ? "If the head is tied, config.json needs tie_word_embeddings: true."
                                           : "The model is incomplete or of another architecture.");
    const auto& file = *found->second;
    const auto& entry = file.entries().at(slot.name);
    if (entry.shape != slot.shape)
        fail(file.path(), slot.name, "shape " + shape_text(slot.shape) + " by config.json", shape_text(entry.shape),
             "Model and config.json do not belong together.");
    const std::size_t width = entry.dtype == "F32" ? 4 : (entry.dtype == "BF16" || entry.dtype == "F16") ? 2 : 0;
    if (width == 0)
        fail(file.path(), slot.name, "F32, BF16 or F16", entry.dtype, "Save the model in one of these types.");
    std::size_t count = 1;
    for (const auto extent : slot.shape) count *= static_cast<std::size_t>(extent);
    if (entry.bytes.size() != count * width)
        fail(file.path(), slot.name, std::to_string(count * width) + " bytes", std::to_string(entry.bytes.size()),
             "The file is damaged: copy the model again.");
    return entry;
}

void convert(const SafetensorsFile::Entry& entry, float* to) {
    if (entry.dtype == "F32")
        std::memcpy(to, entry.bytes.data(), entry.bytes.size());
    else if (entry.dtype == "BF16")
        convert<c10::BFloat16>(entry.bytes, to);
    else
        convert<c10::Half>(entry.bytes, to);
}

}  // namespace

void check_weights(const std::string& model_directory, const WeightLayout& layout) {
    const auto checkpoint = open_checkpoint(model_directory);
    for (const auto& slot : layout.slots) stored(checkpoint, slot);
}

std::string read_weights(const std::string& model_directory, const WeightLayout& layout, std::span<std::byte> memory) {
    const auto checkpoint = open_checkpoint(model_directory);
    data::Sha256 hash;
    for (const auto& slot : layout.slots) {
        const auto& entry = stored(checkpoint, slot);
        convert(entry, reinterpret_cast<float*>(memory.data() + slot.offset));
        hash.update(std::as_bytes(std::span(slot.name.c_str(), slot.name.size() + 1)));
        hash.update(entry.bytes);
        SafetensorsFile::release(entry);
    }
    return data::hexadecimal(hash.digest());
}

}  // namespace idistill::model
