#pragma once
// The list of embeddings, without LibTorch: what --embedding can name.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/options/option.hpp"

namespace idistill::embedding {

class Embedding;

struct Member {
    std::string form;                                        ///< how it is named, "gradient-tail:M"
    std::string form_says = {};                              ///< behind it in an error, " with M of at least 1"
    std::string example = {};                                ///< a text that names it; empty: the form does
    std::string help;                                        ///< what it is
    bool (*is_named_by)(const std::string& text) = nullptr;  ///< null: by its form alone
    std::unique_ptr<Embedding> (*make)(const std::string& text, const options::Values& values);
    bool of_run = true;                                   ///< cheaper than exact influence
    bool of_embed = true;                                 ///< computed: `embed` can write it
    bool of_auto = false;                                 ///< what `auto` always compares
    bool of_file = false;                                 ///< its name is a path
    bool of_blocks = false;                               ///< --jvp-blocks counts
    bool of_gradients = false;                            ///< --parameters counts
    std::vector<options::Option> (*options)() = nullptr;  ///< idle unless it is named

    [[nodiscard]] const std::string& text_that_names_it() const { return example.empty() ? form : example; }
    [[nodiscard]] bool named_by(const std::string& text) const {
        return is_named_by ? is_named_by(text) : text == form;
    }
};

std::span<const Member> members();

/// Null for a text that names no embedding.
const Member* member_named(const std::string& text);

/// Forms of the members of a kind, &Member::of_embed, with what is said of them.
std::vector<std::string> forms(bool Member::*of_kind);

}  // namespace idistill::embedding
