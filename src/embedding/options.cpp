#include "idistill/embedding/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>  // join

#include <algorithm>
#include <utility>

#include "idistill/embedding/parts.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/options/option_kinds.hpp"

namespace idistill::embedding {

using namespace options;

namespace {

std::string help_of(bool Member::*of_command) {
    std::vector<std::string> lines;
    for (const auto& member : members())
        if (member.*of_command) lines.push_back(member.form + ": " + member.help);
    return fmt::format("{}", fmt::join(lines, ";\n"));
}

std::vector<Word> words_of(bool Member::*of_command) {
    std::vector<Word> words;
    for (const auto& member : members())
        if (member.*of_command) words.push_back({member.text_that_names_it(), member.form});
    return words;
}

/// `embed` makes one embedding.
void check_embed(const Given& given, const std::string& text) {
    const auto* member = member_named(text);
    if (member != nullptr && member->of_embed) return;
    const auto known = forms(&Member::of_embed);
    refuse(given, alternatives(known), in_quotes(text), "For example --embedding " + known.front() + ".");
}

void check_run(const Given& given, const std::string& text) {
    auto parts = joined_parts(text);
    if (parts.front() == automatic) {
        const auto always = forms(&Member::of_auto);
        parts.erase(parts.begin());
        if (parts.size() + always.size() > most_auto_parts)
            refuse(given, fmt::format("at most {} embeddings beside auto", most_auto_parts - always.size()),
                   std::to_string(parts.size()), "Leave some out: auto compares all combinations.");
        parts.insert(parts.end(), always.begin(), always.end());
    }
    for (auto part = parts.begin(); part != parts.end(); ++part) {
        const auto* member = member_named(*part);
        if (member == nullptr) throw unknown_embedding(*part, given);
        if (!member->of_run)
            refuse(given, "an embedding that is cheaper than exact influence", in_quotes(*part),
                   fmt::format("Use --propagation none, or one of {}.", fmt::join(forms(&Member::of_run), ", ")));
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
    auto of_a_run = declared(option_group, "embedding auto|KIND[+KIND]",
                             fmt::format("{};\nseveral joined by +: each with a kernel of its own;\n"
                                         "auto: the cheapest combination of {} and what is joined to it whose "
                                         "leave-one-out error is within 2% of the best",
                                         help_of(&Member::of_run), fmt::join(forms(&Member::of_auto), ", ")));
    of_a_run.words = words_of(&Member::of_run);
    const auto always = forms(&Member::of_auto);
    of_a_run.words.push_back({fmt::format("{}", fmt::join(always, "+")), "KIND+KIND"});
    of_a_run.words.push_back({automatic, automatic});
    of_a_run.reads = files;
    auto of_an_embed = declared(option_group, "embedding KIND", "one of " + help_of(&Member::of_embed), of_embed);
    of_an_embed.words = words_of(&Member::of_embed);
    const auto both = of_run | of_embed;
    std::vector<Option> all{checked_by(check_run, std::move(of_a_run)), checked_by(check_embed, std::move(of_an_embed)),
                            number_option(declared(option_group, "jvp-blocks B",
                                                   "transformer blocks that the embedding runs through", both),
                                          &EmbeddingSettings::jvp_blocks, 1, 10000),
                            number_option(declared(option_group, "embedding-dim E",
                                                   "embeddings longer than this are projected down to it", both),
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
        const auto names_it = [&member](const std::string& name) { return member.named_by(name); };
        if (member.options == nullptr || std::any_of(names.begin(), names.end(), names_it)) continue;
        for (const auto& own : member.options())
            if (own.name == option) return "embedding";
    }
    return {};
}

}  // namespace idistill::embedding
