#include "idistill/model/safetensors.hpp"

#include <ATen/ATen.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint.hpp"
#include "idistill/data/sha256.hpp"
#include "idistill/model/decoder.hpp"
#include "weight_names.hpp"

namespace idistill::model {
namespace {

template <class T>
void convert(std::span<const std::byte> from, float* to) {
    const std::size_t count = from.size() / sizeof(T);
    for (std::size_t i = 0; i < count; ++i) {
        T value;  // the file promises no alignment
        std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
        to[i] = static_cast<float>(value);
    }
}

void convert(const SafetensorsFile::Entry& entry, float* to) {
    if (entry.dtype == "F32")
        std::memcpy(to, entry.bytes.data(), entry.bytes.size());
    else if (entry.dtype == "BF16")
        convert<c10::BFloat16>(entry.bytes, to);
    else
        convert<c10::Half>(entry.bytes, to);
}

/// As numbers, in whatever types. Compared by the piece, each given back once it is read.
bool same_values(const SafetensorsFile::Entry& a, const SafetensorsFile::Entry& b) {
    const auto size_a = number_bytes(a.dtype), size_b = number_bytes(b.dtype);
    if (a.shape != b.shape || size_a == 0 || size_b == 0) return false;
    constexpr std::size_t piece = std::size_t{4} << 20U;
    const std::size_t count = a.bytes.size() / size_a;
    if (count != b.bytes.size() / size_b) return false;
    std::vector<float> numbers[2];
    for (std::size_t first = 0; first < count; first += piece) {
        for (const auto* entry : {&a, &b}) {
            const auto size = entry == &a ? size_a : size_b, most = std::min(piece, count - first);
            const SafetensorsFile::Entry part{entry->dtype, {}, entry->bytes.subspan(first * size, most * size)};
            auto& own = numbers[entry == &a ? 0 : 1];
            own.resize(most);
            convert(part, own.data());
            SafetensorsFile::release(part);
        }
        if (numbers[0] != numbers[1]) return false;
    }
    return true;
}

/// A slot's tensor, whose name and stored bytes go into `hash` (null: not wanted).
void read(const Checkpoint& checkpoint, const WeightSlot& slot, float* to, data::Sha256* hash) {
    const auto& entry = checkpoint.at(slot);
    convert(entry, to);
    if (hash != nullptr) {
        hash->update(std::as_bytes(std::span(slot.name.c_str(), slot.name.size() + 1)));
        hash->update(entry.bytes);
    }
    SafetensorsFile::release(entry);
}

}  // namespace

CheckedModel check_model(const std::string& directory) {
    CheckedModel model{read_model_config(directory), {}};
    const Checkpoint checkpoint(directory, model.config.tied_embedding);
    if (!checkpoint.note().empty()) model.notes.push_back(checkpoint.note());
    const auto* embedding = checkpoint.find(embedding_name);
    const auto* head = checkpoint.find(head_name);
    if (model.config.tied_embedding && embedding != nullptr && head != nullptr && embedding != head &&
        !same_values(*embedding, *head)) {
        model.config.tied_embedding = false;
        model.notes.push_back(
            fmt::format("{} has another {} than {}: they are not tied, as with transformers 5, although "
                        "config.json says tie_word_embeddings: true.",
                        directory, head_name, embedding_name));
    }
    for (const auto& slot : weight_layout(model.config).slots) checkpoint.at(slot);
    return model;
}

Decoder read_decoder(const std::string& model_directory, const ModelConfig& config, const Place& place,
                     std::string* sha256) {
    const Checkpoint checkpoint(model_directory, config.tied_embedding);
    data::Sha256 hash;
    Decoder decoder(config, weight_layout(config), [&](const std::vector<const WeightSlot*>& slots) {
        const auto whole = at::empty(stacked_shape(slots), at::TensorOptions().device(place.device).dtype(place.dtype));
        std::int64_t row = 0;
        for (const auto* slot : slots) {
            const auto part = at::empty(slot->shape, at::TensorOptions().dtype(torch::kFloat32));
            read(checkpoint, *slot, part.mutable_data_ptr<float>(), sha256 == nullptr ? nullptr : &hash);
            whole.narrow(0, row, slot->shape[0]).copy_(part.to(place.dtype));
            row += slot->shape[0];
        }
        return whole;
    });
    if (sha256 != nullptr) *sha256 = data::hexadecimal(hash.digest());
    return decoder;
}

std::string read_weights(const std::string& model_directory, const WeightLayout& layout, std::span<std::byte> memory) {
    const bool tied = std::none_of(layout.slots.begin(), layout.slots.end(),
                                   [](const WeightSlot& slot) { return slot.name == head_name; });
    const Checkpoint checkpoint(model_directory, tied);
    data::Sha256 hash;
    for (const auto& slot : layout.slots)
        read(checkpoint, slot, reinterpret_cast<float*>(memory.data() + slot.offset), &hash);
    return data::hexadecimal(hash.digest());
}

}  // namespace idistill::model
