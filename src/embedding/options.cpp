#include "idistill/embedding/options.hpp"

#include <algorithm>
#include <utility>

#include "idistill/embedding/parts.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/options/option_kinds.hpp"

namespace idistill::embedding {

using namespace options;

namespace {

const std::string group = "Propagation (from landmarks to the pool)";
const std::string cheap_kinds =
    "jvp: tangents of the first blocks;\nhidden: mean and last hidden state after them, cheaper;\n"
    "gradient-tail:M: last hidden state and gradients of --parameters in the last M blocks, dearer;\n";
const std::vector<Word> words_of_both{{"jvp", "jvp"}, {"hidden", "hidden"}, {"gradient-tail:1", "gradient-tail:M"}};

std::vector<Word> with(std::vector<Word> words, const std::vector<Word>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

[[noreturn]] void refuse_part(const Given& given, const std::string& part) {
    const std::vector<std::string> known{"auto", "jvp", "hidden", "gradient", "gradient-tail:1"};
    const std::string near = nearest(part, known);
    refuse(given,
           "jvp, hidden, gradient-tail:M with M of at least 1 or a file that ends in .h5, joined by +, or auto first",
           in_quotes(part), near.empty() ? "For example --embedding jvp+hidden." : "Did you mean " + near + "?");
}

/// `embed` makes one embedding.
void check_embed(const Given& given, const std::string& text) {
    const auto* member = member_named(text);
    if (member == nullptr || !member->of_embed)
        refuse(given, "gradient, jvp, hidden or gradient-tail:M", in_quotes(text), "For example --embedding gradient.");
}

void check_run(const Given& given, const std::string& text) {
    auto parts = joined_parts(text);
    if (parts.front() == "auto") {
        parts.erase(parts.begin());
        parts.insert(parts.end(), {"jvp", "hidden"});
        if (parts.size() > most_auto_parts)
            refuse(given, "at most " + std::to_string(most_auto_parts - 2) + " embeddings beside auto",
                   std::to_string(parts.size() - 2), "Leave some out: auto compares all combinations.");
    }
    for (auto part = parts.begin(); part != parts.end(); ++part) {
        const auto* member = member_named(*part);
        if (member == nullptr) refuse_part(given, *part);
        if (!member->of_run)
            refuse(given, "an embedding that is cheaper than exact influence", in_quotes(*part),
                   "Use --propagation none, gradient-tail:M, or a file that idistill_mpi embed made with a smaller "
                   "model.");
        if (std::find(parts.begin(), part, *part) != part)
            refuse(given, "every embedding once", in_quotes(*part) + " twice", "Give it once.");
    }
}

std::vector<InputFile> files(const Values& values) {
    std::vector<InputFile> files;
    for (const auto& name : embedding_names(values.of<EmbeddingSettings>()))
        if (member_named(name)->of_file) files.push_back({"--embedding", name});
    return files;
}

Option checked_by(void (*check)(const Given& given, const std::string& text), Option option) {
    return own_option<EmbeddingSettings>(
        std::move(option),
        [check](EmbeddingSettings& settings, const Given& given) {
            check(given, single(given));
            settings.embedding = given.values.front();
        },
        [](const EmbeddingSettings& s) { return s.embedding; });
}

}  // namespace

std::vector<Option> embedding_options() {
    std::vector<Option> all{
        checked_by(
            check_run,
            {.name = "embedding",
             .group = group,
             .value_name = "auto|KIND[+KIND]",
             .help = cheap_kinds + "a file from idistill_mpi embed (there also: gradient, all of --parameters);\n"
                                   "several joined by +: each with a kernel of its own;\n"
                                   "auto: the cheapest combination of jvp, hidden and what is joined to it whose "
                                   "leave-one-out error is within 2% of the best",
             .words = with(words_of_both, {{"file.h5", "FILE.h5"}, {"jvp+hidden", "KIND+KIND"}, {"auto", "auto"}}),
             .reads = files}),
        checked_by(check_embed, {.name = "embedding",
                                 .group = group,
                                 .value_name = "KIND",
                                 .help = "one of " + cheap_kinds + "gradient: of all --parameters, dearest",
                                 .of_run = false,
                                 .of_embed = true,
                                 .words = with(words_of_both, {{"gradient", "gradient"}})}),
        number_option({.name = "jvp-blocks",
                       .group = group,
                       .value_name = "B",
                       .help = "transformer blocks that the embedding runs through",
                       .of_embed = true},
                      &EmbeddingSettings::jvp_blocks, 1, 10000),
        number_option({.name = "embedding-dim",
                       .group = group,
                       .value_name = "E",
                       .help = "embeddings longer than this are projected down to it",
                       .of_embed = true},
                      &EmbeddingSettings::embedding_dim, 1, std::int64_t{1} << 20)};
    for (const auto& member : members()) {
        if (member.options == nullptr) continue;
        for (const auto& own : member.options()) all.push_back(own);
    }
    return all;
}

std::string idle_embedding(const Values& values, const std::string& option) {
    const auto& settings = values.of<EmbeddingSettings>();
    if (option == "jvp-blocks" && !any_embedding(settings, &Member::of_blocks)) return "embedding";
    const auto names = embedding_names(settings);
    for (const auto& member : members()) {
        if (member.options == nullptr || std::any_of(names.begin(), names.end(), member.is_named_by)) continue;
        for (const auto& own : member.options())
            if (own.name == option) return "embedding";
    }
    return {};
}

}  // namespace idistill::embedding
