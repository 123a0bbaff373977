#include "idistill/embedding/parts.hpp"

#include <algorithm>

namespace idistill::embedding {

Error unknown_embedding(const std::string& text, const options::Given& given) {
    std::vector<std::string> examples{automatic};
    for (const auto& member : members())
        if (member.of_run) examples.push_back(member.text_that_names_it());
    const auto near = nearest(text, examples);
    return {ExitCode::usage,
            {given.where, given.field,
             alternatives(forms(&Member::of_run)) + ", joined by +, or " + automatic + " first", in_quotes(text),
             near.empty() ? "For example --embedding " + examples[1] + "." : "Did you mean " + near + "?"}};
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

std::vector<std::string> embedding_names(const EmbeddingSettings& settings) {
    std::vector<std::string> names;
    for (const auto& text : joined_parts(settings.embedding)) {
        const auto always = forms(&Member::of_auto);
        if (text == automatic)
            names.insert(names.end(), always.begin(), always.end());
        else if (member_named(text) != nullptr)
            names.push_back(text);
        else
            throw unknown_embedding(text);
    }
    return names;
}

std::vector<std::vector<std::size_t>> embedding_candidates(const EmbeddingSettings& settings) {
    const auto count = embedding_names(settings).size();
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

bool any_embedding(const EmbeddingSettings& settings, bool Member::*of_kind) {
    const auto names = embedding_names(settings);
    return std::any_of(names.begin(), names.end(),
                       [of_kind](const std::string& name) { return member_named(name)->*of_kind; });
}

}  // namespace idistill::embedding
