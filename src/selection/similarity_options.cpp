#include "idistill/selection/similarity_options.hpp"

#include <algorithm>

#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

using namespace options;

namespace {

const std::vector<Choice<SimilarityKind>> kinds{
    {"auto", SimilarityKind::automatic}, {"influence", SimilarityKind::influence}, {"network", SimilarityKind::learnt}};

std::vector<Word> words_of_similarity() {
    std::vector<Word> words;
    for (const auto& kind : kinds) words.push_back({kind.word, kind.word});
    words.push_back({"file.h5", "FILE.h5"});
    return words;
}

void read_similarity(FacilityLocationSettings& settings, const Given& given) {
    const auto& text = some_text(given);
    settings.similarity_file.clear();
    for (const auto& kind : kinds)
        if (kind.word == text) {
            settings.similarity = kind.value;
            return;
        }
    if (!text.ends_with(".h5") && !text.ends_with(".hdf5"))
        refuse(given, "auto, influence, network or a file that ends in .h5", in_quotes(text),
               "For example --similarity influence.");
    settings.similarity = SimilarityKind::file;
    settings.similarity_file = text;
}

std::string show_similarity(const FacilityLocationSettings& settings) {
    for (const auto& kind : kinds)
        if (kind.value == settings.similarity) return kind.word;
    return settings.similarity_file;
}

std::vector<InputFile> similarity_file(const Values& values) {
    const auto& settings = values.of<FacilityLocationSettings>();
    if (settings.similarity != SimilarityKind::file) return {};
    return {{"--similarity", settings.similarity_file}};
}

}  // namespace

std::vector<Option> similarity_options() {
    auto similarity = own_option<FacilityLocationSettings>(
        selection_option(
            "similarity", "KIND|FILE.h5",
            "of facility-location: how samples are compared. influence: samples represent targets; FILE.h5: cosines of "
            "an embedding file: samples represent the pool; network: what --propagation network learnt of two "
            "samples, less the least label;\nauto: network where there is one, otherwise influence; with "
            "facility-location-mi influence",
            Decides::nothing, words_of_similarity()),
        read_similarity, show_similarity);
    similarity.reads = similarity_file;
    return {similarity,
            choice_option(selection_option(
                              "greedy", "HOW",
                              "of facility-location: exact: always the best sample; stochastic: the best of some at "
                              "random; sparse: exact by nearest neighbours alone;\nauto: exact up to 50,000 samples, "
                              "or columns of influence, otherwise sparse",
                              Decides::nothing),
                          &FacilityLocationSettings::greedy,
                          {{"auto", Greedy::automatic},
                           {"exact", Greedy::exact},
                           {"stochastic", Greedy::stochastic},
                           {"sparse", Greedy::sparse}}),
            number_option(selection_option("neighbours", "K", "of --greedy sparse: similarities kept of a sample",
                                           Decides::nothing, {{"16", "K"}}),
                          &FacilityLocationSettings::neighbours, 1, 1 << 16),
            number_option(selection_option("memory", "GB",
                                           "of facility-location: similarities that a rank keeps; others are computed "
                                           "again. The selection is the same",
                                           Decides::nothing, {{"4", "GB"}}),
                          &FacilityLocationSettings::memory_gb, 0.0, 1e6)};
}

std::string idle_of_similarity(const Values& values, const std::string& option) {
    const auto shared = similarity_options();
    const auto is_it = [&option](const Option& one) { return one.name == option; };
    if (std::none_of(shared.begin(), shared.end(), is_it)) return {};
    if (!chosen_by(resolved(values)).by_similarity) return "selection";
    const auto greedy = values.of<FacilityLocationSettings>().greedy;
    const bool sparse = greedy == Greedy::sparse;
    if (option == "neighbours" && !sparse && greedy != Greedy::automatic) return "greedy";
    return option == "memory" && sparse ? "greedy" : "";
}

}  // namespace idistill::selection
