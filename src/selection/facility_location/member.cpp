// Facility locations as members: their options, and what these mean beside each other.

#include <algorithm>

#include "idistill/data/embedding_file.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"
#include "selector.hpp"

namespace idistill::selection {

using namespace options;
using nlohmann::json;

// Listed in members.cpp.
Member facility_location_member();
Member facility_location_mi_member();
Member facility_location_cg_member();

namespace {

constexpr double default_percent = 30.0;
constexpr const char* forms = "auto, influence, network or a file that ends in .h5";

void read_similarity(FacilityLocationSettings& settings, const Given& given) {
    const auto& text = some_text(given);
    const bool word = text == similarity_auto || text == similarity_influence || text == similarity_network;
    if (!word && !is_similarity_file(text))
        refuse(given, forms, in_quotes(text), "For example --similarity influence.");
    settings.similarity = text;
}

std::vector<InputFile> similarity_file(const Values& values) {
    const auto& name = values.of<FacilityLocationSettings>().similarity;
    if (!is_similarity_file(name)) return {};
    return {{"--similarity", name}};
}

void look_at_similarity(Values& values) {
    auto& settings = values.of<FacilityLocationSettings>();
    if (is_similarity_file(settings.similarity)) settings.file_width = data::EmbeddingFile(settings.similarity).width();
}

std::vector<Option> target_options() {
    return {number_option(
        selection_option("eta", "X",
                         "of facility-location-mi: what a sample's own largest influence counts beside what all "
                         "targets get; with --similarity of samples: how far influence lets a sample be covered",
                         Decides::nothing, {{"1", "X"}}),
        &FacilityLocationSettings::target_weight, 0.0, 1e6)};
}

std::vector<Option> held_options() {
    auto held = text_option(
        selection_option("held", "FILE",
                         "of facility-location-cg: what one already has: a result, whose selection counts, or a text "
                         "with an id on every line",
                         Decides::nothing),
        &FacilityLocationSettings::held);
    held.reads = names_file("held", &FacilityLocationSettings::held);
    return {held, number_option(selection_option("nu", "X",
                                                 "of facility-location-cg: how much a sample is covered by what is "
                                                 "held, times its similarity",
                                                 Decides::nothing, {{"1", "X"}}),
                                &FacilityLocationSettings::held_weight, 0.0, 1e6)};
}

void check_held(const Values& meant) {
    if (meant.of<FacilityLocationSettings>().held.empty())
        refuse({command_line, "--held", {}}, "a file with facility-location-cg", "none",
               "Give what is held already, or use --selection facility-location.");
}

std::string by_rule(const Values& /*given*/) { return "selection"; }

}  // namespace

bool is_similarity_file(const std::string& text) { return text.ends_with(".h5") || text.ends_with(".hdf5"); }

std::vector<Option> similarity_options() {
    auto similarity = own_option<FacilityLocationSettings>(
        selection_option(
            "similarity", "KIND|FILE.h5",
            "of facility-location: how samples are compared. influence: samples represent targets; FILE.h5: cosines of "
            "an embedding file: samples represent the pool; network: what --propagation network learnt of two "
            "samples, less the least label;\nauto: network where there is one, otherwise influence; with "
            "facility-location-mi influence",
            Decides::nothing,
            {{similarity_auto, similarity_auto},
             {similarity_influence, similarity_influence},
             {similarity_network, similarity_network},
             {"file.h5", "FILE.h5"}}),
        read_similarity, [](const FacilityLocationSettings& s) { return json(s.similarity); });
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

namespace {

/// With what all forms share.
template <FacilityForm form>
Member of_form(Member own) {
    own.make = make_facility_location<form>;
    own.by_similarity = true;
    own.percent = default_percent;
    own.look_at_files = look_at_similarity;
    own.against_refining = by_rule;
    return own;
}

}  // namespace

Member facility_location_member() {
    return of_form<FacilityForm::plain>(
        {.name = "facility-location", .help = "represents the pool, or the targets", .make = nullptr});
}
Member facility_location_mi_member() {
    return of_form<FacilityForm::mutual_information>({.name = "facility-location-mi",
                                                      .help = "for the targets, without repeats",
                                                      .make = nullptr,
                                                      .options = target_options});
}
Member facility_location_cg_member() {
    return of_form<FacilityForm::conditional_gain>({.name = "facility-location-cg",
                                                    .help = "beside what is --held",
                                                    .make = nullptr,
                                                    .options = held_options,
                                                    .check = check_held});
}

}  // namespace idistill::selection
