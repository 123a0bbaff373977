#include "idistill/config/embedding_parts.hpp"

#include <algorithm>

#include "given.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/report/error.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

const std::string tail_prefix = "gradient-tail:";
const std::string automatic = "auto";

EmbeddingShape gradient_shape(const EmbeddingPart& part, const Settings& settings, const ModelConfig& model) {
    const bool tail = part.kind == EmbeddingKind::gradient_tail;
    EmbeddingShape shape{part, tail ? model.hidden : 0, 0, {}, {}};
    if (tail) shape.states = std::min(model.hidden, std::max<std::int64_t>(1, settings.embedding_dim / 2));
    for (const auto& layer : chosen_layers(model, settings.parameters))
        if (!tail || layer.block >= model.blocks - part.tail_blocks) shape.layers.push_back(layer);
    if (shape.layers.empty())
        throw Error(ExitCode::usage, {"--embedding", part.name, "a layer of --parameters in the last blocks",
                                      "none of " + in_quotes(settings.parameters),
                                      "Give more blocks, or --parameters that name layers of the last ones."});
    const auto numbers = settings.embedding_dim - shape.states;
    const auto layers = static_cast<std::int64_t>(shape.layers.size());
    const auto least = tail ? std::min(2 * layers, model.hidden + layers) : layers;
    if (numbers < layers)
        throw Error(ExitCode::usage,
                    {"--embedding-dim", part.name,
                     "at least " + std::to_string(least) + ", with one number for each of " + std::to_string(layers) +
                         " layers",
                     std::to_string(settings.embedding_dim), "Give a larger --embedding-dim, or fewer layers."});
    shape.sketch = kronecker_shape(numbers, shape.layers);
    return shape;
}

void check_blocks(const EmbeddingPart& part, const Settings& settings, const ModelConfig& model) {
    if (part.kind == EmbeddingKind::gradient) return;
    const bool tail = part.kind == EmbeddingKind::gradient_tail;
    const auto blocks = tail ? part.tail_blocks : settings.jvp_blocks;
    if (blocks <= model.blocks) return;
    const std::string option = tail ? "--embedding" : "--jvp-blocks";
    throw Error(ExitCode::usage, {option,
                                  {},
                                  "at most " + std::to_string(model.blocks) + ", the blocks of this model",
                                  tail ? part.name : std::to_string(blocks),
                                  "Give fewer " + (tail ? "blocks behind " + tail_prefix : option) + "."});
}

}  // namespace

std::optional<EmbeddingPart> embedding_part(const std::string& text) {
    if (text == "jvp") return EmbeddingPart{EmbeddingKind::jvp, text, 0};
    if (text == "hidden") return EmbeddingPart{EmbeddingKind::hidden, text, 0};
    if (text == "gradient") return EmbeddingPart{EmbeddingKind::gradient, text, 0};
    if (text.ends_with(".h5") || text.ends_with(".hdf5")) return EmbeddingPart{EmbeddingKind::file, text, 0};
    if (!text.starts_with(tail_prefix)) return std::nullopt;
    const auto blocks = whole<std::int64_t>(text.substr(tail_prefix.size()));
    if (!blocks || *blocks < 1) return std::nullopt;
    return EmbeddingPart{EmbeddingKind::gradient_tail, text, *blocks};
}

std::vector<std::string> joined_parts(const std::string& text) {
    std::vector<std::string> parts(1);
    for (const char c : text) {
        if (c == '+')
            parts.emplace_back();
        else
            parts.back() += c;
    }
    return parts;
}

std::vector<EmbeddingPart> embedding_parts(const Settings& settings) {
    std::vector<EmbeddingPart> parts;
    for (const auto& text : joined_parts(settings.embedding)) {
        if (text == automatic) {
            parts.push_back(*embedding_part("jvp"));
            parts.push_back(*embedding_part("hidden"));
            continue;
        }
        const auto part = embedding_part(text);
        if (!part)
            throw Error(ExitCode::usage, {"--embedding", "", "auto, jvp, hidden, gradient-tail:BLOCKS or a file",
                                          in_quotes(text), "Give --embedding one of these."});
        parts.push_back(*part);
    }
    return parts;
}

std::vector<std::vector<std::size_t>> embedding_candidates(const Settings& settings) {
    const auto count = embedding_parts(settings).size();
    std::vector<std::vector<std::size_t>> candidates;
    const std::size_t all = (std::size_t{1} << count) - 1;
    const bool choose = joined_parts(settings.embedding).front() == automatic;
    for (std::size_t chosen = choose ? 1 : all; chosen <= all; ++chosen) {
        auto& candidate = candidates.emplace_back();
        for (std::size_t part = 0; part < count; ++part)
            if ((chosen >> part & 1U) != 0) candidate.push_back(part);
    }
    std::stable_sort(candidates.begin(), candidates.end(),
                     [](const auto& a, const auto& b) { return a.size() < b.size(); });
    return candidates;
}

std::string joined_name(const std::vector<EmbeddingPart>& parts, const std::vector<std::size_t>& candidate) {
    std::string name;
    for (const auto part : candidate) name += (name.empty() ? "" : "+") + parts[part].name;
    return name;
}

bool embeds(const Settings& settings, EmbeddingKind kind) {
    const auto parts = embedding_parts(settings);
    return std::any_of(parts.begin(), parts.end(), [kind](const EmbeddingPart& part) { return part.kind == kind; });
}

std::vector<EmbeddingShape> embedding_shapes(const Settings& settings, const ModelConfig& model) {
    std::vector<EmbeddingShape> shapes;
    for (const auto& part : embedding_parts(settings)) {
        if (part.kind == EmbeddingKind::file) {
            const auto width = data::EmbeddingFile(part.name).width();
            shapes.push_back({part, width, width, {}, {}});
            continue;
        }
        check_blocks(part, settings, model);
        if (part.kind == EmbeddingKind::gradient_tail || part.kind == EmbeddingKind::gradient) {
            shapes.push_back(gradient_shape(part, settings, model));
            continue;
        }
        const auto whole = (part.kind == EmbeddingKind::hidden ? 2 : settings.jvp_tangents) * model.hidden;
        shapes.push_back({part, whole, std::min(whole, settings.embedding_dim), {}, {}});
    }
    return shapes;
}

std::int64_t total_width(const std::vector<EmbeddingShape>& shapes) {
    std::int64_t width = 0;
    for (const auto& shape : shapes) width += shape.width();
    return width;
}

}  // namespace idistill::config
