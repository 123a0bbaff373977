// --embedding, which names different things in a run and in `embed`.

#include <algorithm>
#include <utility>

#include "idistill/config/embedding_parts.hpp"
#include "option_kinds.hpp"
#include "text.hpp"

namespace idistill::config {
namespace {

[[noreturn]] void refuse_part(const Given& given, const std::string& part) {
    const std::vector<std::string> known{"auto", "jvp", "hidden", "gradient", "gradient-tail:1"};
    const std::string near = nearest(part, known);
    refuse(given,
           "jvp, hidden, gradient-tail:M with M of at least 1 or a file that ends in .h5, joined by +, or auto first",
           in_quotes(part), near.empty() ? "For example --embedding jvp+hidden." : "Did you mean " + near + "?");
}

/// `embed` makes one embedding.
void check_embed(const Given& given, const std::string& text) {
    const auto part = embedding_part(text);
    if (!part || part->kind == EmbeddingKind::file)
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
        const auto known = embedding_part(*part);
        if (!known) refuse_part(given, *part);
        if (known->kind == EmbeddingKind::gradient)
            refuse(given, "an embedding that is cheaper than exact influence", in_quotes(*part),
                   "Use --propagation none, gradient-tail:M, or a file that idistill_mpi embed made with a smaller "
                   "model.");
        if (std::find(parts.begin(), part, *part) != part)
            refuse(given, "every embedding once", in_quotes(*part) + " twice", "Give it once.");
    }
}

Option checked_by(void (*check)(const Given& given, const std::string& text), Option option) {
    option.apply = [check](Settings& settings, const Given& given) {
        const std::string& text = single(given);
        check(given, text);
        settings.embedding = text;
    };
    option.show = [](const Settings& s) { return nlohmann::json(s.embedding); };
    return option;
}

}  // namespace

Option embedding_option(const std::string& group) {
    Option option = made({"embedding", group, "auto|KIND[+KIND]",
                          "jvp: tangents of the first blocks;\nhidden: mean and last hidden state after them, "
                          "cheaper;\ngradient-tail:M: last hidden state and gradients of --parameters in the last M "
                          "blocks, dearer;\na file from idistill_mpi embed (there also: gradient, all of "
                          "--parameters);\nseveral joined by +: each with a kernel of its own;\nauto: the cheapest "
                          "combination of jvp, hidden and what is joined to it whose leave-one-out error is within 2% "
                          "of the best"});
    return checked_by(check_run, std::move(option));
}

Option embedding_of_embed_option(const std::string& group) {
    Option option = made({"embedding", group, "KIND",
                          "one of jvp: tangents of the first blocks;\nhidden: mean and last hidden state after them, "
                          "cheaper;\ngradient-tail:M: last hidden state and gradients of --parameters in the last M "
                          "blocks, dearer;\ngradient: of all --parameters, dearest"});
    option.of_run = false;
    option.of_embed = true;
    return checked_by(check_embed, std::move(option));
}

}  // namespace idistill::config
