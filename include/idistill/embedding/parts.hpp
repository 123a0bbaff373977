#pragma once
// Which embeddings --embedding names. No file is opened.

#include <cstddef>
#include <string>
#include <vector>

#include "idistill/base/error.hpp"
#include "idistill/embedding/members.hpp"
#include "idistill/embedding/settings.hpp"

namespace idistill::embedding {

/// In place of a name: the cheapest combination of those that it always compares and of what is joined to it.
inline constexpr const char* automatic = "auto";

/// What stands between the plus signs of `text`.
std::vector<std::string> joined_parts(const std::string& text);

/// The embeddings of the settings by name, in order; "auto" stands for those that it always compares. Throws
/// Error(usage) for one that is none.
std::vector<std::string> embedding_names(const EmbeddingSettings& settings);

/// About a text that names none.
Error unknown_embedding(const std::string& text, const options::Given& given = {"--embedding", {}, {}});

/// Most embeddings that auto combines.
inline constexpr std::size_t most_auto_parts = 4;

/// Places in embedding_names of the embeddings that a run may use: with "auto" every combination of them, few before
/// many, otherwise all of them together.
std::vector<std::vector<std::size_t>> embedding_candidates(const EmbeddingSettings& settings);

/// True when one of the settings' embeddings is a member of this kind, &Member::of_gradients.
bool any_embedding(const EmbeddingSettings& settings, bool Member::*of_kind);

}  // namespace idistill::embedding
