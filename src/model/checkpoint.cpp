#include "checkpoint.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "idistill/base/error.hpp"
#include "idistill/base/lfs_pointer.hpp"
#include "weight_names.hpp"

namespace idistill::model {
namespace {

using nlohmann::json;

[[noreturn]] void fail(std::string where, std::string field, std::string expected, std::string found,
                       std::string remedy) {
    throw Error(ExitCode::bad_input,
                {std::move(where), std::move(field), std::move(expected), std::move(found), std::move(remedy)});
}

const std::string copy_again = "Copy the model again.";
const std::string single = "model.safetensors", index_of_shards = "model.safetensors.index.json";

}  // namespace

std::size_t number_bytes(const std::string& dtype) noexcept {
    return dtype == "F32" ? 4 : (dtype == "BF16" || dtype == "F16") ? 2 : 0;
}

Checkpoint::Checkpoint(const std::string& directory, bool tied_embedding) {
    const std::filesystem::path base(directory);
    const bool whole = std::filesystem::is_regular_file(base / single);
    const bool sharded = std::filesystem::is_regular_file(base / index_of_shards);
    if (!whole && !sharded)
        fail(directory, "", fmt::format("{} or {}", single, index_of_shards), "neither",
             "Save the model with transformers' save_pretrained (safetensors is its default).");
    if (whole && sharded)
        note_ = fmt::format(
            "{} has both {} and {}: the first is read, as transformers does. Remove the one that is not "
            "of this model.",
            directory, single, index_of_shards);
    place_ = (base / (whole ? single : index_of_shards)).string();
    if (whole)
        open(place_);
    else
        open_index(directory);
    if (tied_embedding && find(embedding_name) == nullptr && find(head_name) != nullptr)
        tensors_[embedding_name] = tensors_.at(head_name);
}

void Checkpoint::open_index(const std::string& directory) {
    std::ifstream stream(place_);
    const auto index = json::parse(stream, nullptr, false);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
        const auto pointer = lfs_remedy(place_);
        fail(place_, "weight_map", "a JSON object of tensor -> file", pointer ? "a Git LFS pointer" : "something else",
             pointer.value_or(copy_again));
    }
    std::set<std::string> shards;
    for (const auto& [name, file] : index["weight_map"].items()) {
        if (!file.is_string()) fail(place_, name, "a file name", file.dump(), copy_again);
        shards.insert(file.get<std::string>());
    }
    for (const auto& shard : shards) open((std::filesystem::path(directory) / shard).string());
    for (const auto& [name, file] : index["weight_map"].items())
        if (find(name) == nullptr)
            fail((std::filesystem::path(directory) / file.get<std::string>()).string(), name,
                 "the tensor that " + place_ + " promises", "none", copy_again);
}

void Checkpoint::open(const std::string& path) {
    const auto& file = files_.emplace_back(std::make_unique<SafetensorsFile>(path, copy_again));
    for (const auto& [name, entry] : file->entries()) tensors_[name] = {file.get(), &entry};
}

const SafetensorsFile::Entry* Checkpoint::find(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : found->second.entry;
}

const SafetensorsFile::Entry& Checkpoint::at(const WeightSlot& slot) const {
    const auto found = tensors_.find(slot.name);
    if (found == tensors_.end())
        fail(place_, slot.name, "this tensor, which config.json asks for", "none",
             slot.name == head_name ? "If the head is tied, config.json needs tie_word_embeddings: true."
                                    : "The model is incomplete or of another architecture.");
    const auto& file = *found->second.file;
    const auto& entry = *found->second.entry;
    if (entry.shape != slot.shape)
        fail(file.path(), slot.name, "shape " + shape_text(slot.shape) + " by config.json", shape_text(entry.shape),
             "Model and config.json do not belong together.");
    const std::size_t width = number_bytes(entry.dtype);
    if (width == 0)
        fail(file.path(), slot.name, "F32, BF16 or F16", entry.dtype, "Save the model in one of these types.");
    std::size_t count = 1;
    for (const auto extent : slot.shape) count *= static_cast<std::size_t>(extent);
    if (entry.bytes.size() != count * width)
        fail(file.path(), slot.name, std::to_string(count * width) + " bytes", std::to_string(entry.bytes.size()),
             "The file is damaged: copy the model again.");
    return entry;
}

}  // namespace idistill::model
