#pragma once
// Which embeddings --embedding names, and how long and how large each is.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "idistill/config/model_config.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/config/sketch_shape.hpp"

namespace idistill::config {

enum class EmbeddingKind { jvp, hidden, gradient_tail, gradient, file };

/// One embedding: jvp, hidden, gradient-tail:m, gradient, or the path of a file that ends in .h5 or .hdf5.
struct EmbeddingPart {
    EmbeddingKind kind = EmbeddingKind::jvp;
    std::string name;              ///< as it was given; of a file its path
    std::int64_t tail_blocks = 0;  ///< m of gradient-tail:m
};

/// Nothing for a text that names no embedding.
std::optional<EmbeddingPart> embedding_part(const std::string& text);

/// What stands between the plus signs of `text`.
std::vector<std::string> joined_parts(const std::string& text);

/// The embeddings of the settings, in order; "auto" stands for jvp and hidden. Throws Error(usage) for one that is
/// none.
std::vector<EmbeddingPart> embedding_parts(const Settings& settings);

/// Most embeddings that auto combines.
inline constexpr std::size_t most_auto_parts = 4;

/// Places in embedding_parts of the embeddings that a run may use: with "auto" every combination of them, few before
/// many, otherwise all of them together.
std::vector<std::vector<std::size_t>> embedding_candidates(const Settings& settings);

/// "jvp+hidden": the parts of a candidate as --embedding takes them.
std::string joined_name(const std::vector<EmbeddingPart>& parts, const std::vector<std::size_t>& candidate);

/// True when one of the settings' embeddings is of this kind.
bool embeds(const Settings& settings, EmbeddingKind kind);

/// One embedding as it is made: numbers of hidden states or their tangents, then a sketch of gradients.
struct EmbeddingShape {
    EmbeddingPart part;
    std::int64_t whole = 0;           ///< numbers of states before their projection
    std::int64_t states = 0;          ///< and after it; the same where nothing is projected
    std::vector<LinearLayer> layers;  ///< whose gradients are sketched: the chosen ones (of the last blocks)
    SketchShape sketch;               ///< of these, kronecker
    [[nodiscard]] std::int64_t width() const { return states + sketch.width; }  ///< e
};

/// Every embedding has at most embedding_dim numbers. jvp: tangents * hidden; hidden: 2 * hidden (mean and last);
/// gradient-tail: hidden, at most half of embedding_dim, and a Kronecker sketch of what is left; gradient: a sketch
/// alone. A file is opened and has what it has, whatever embedding_dim is. Throws Error(usage)
/// for more blocks than the model has, for a tail without a chosen layer, and for too few numbers for the tail's
/// layers.
std::vector<EmbeddingShape> embedding_shapes(const Settings& settings, const ModelConfig& model);

/// Numbers of all embeddings of a sample.
std::int64_t total_width(const std::vector<EmbeddingShape>& shapes);

}  // namespace idistill::config
