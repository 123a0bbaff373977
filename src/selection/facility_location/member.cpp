// Facility locations as members: their options, and what these mean beside each other.

#include "idistill/data/embedding_file.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"
#include "selector.hpp"

namespace idistill::selection {

using namespace options;

// Listed in members.cpp.
Member facility_location_member();
Member facility_location_mi_member();
Member facility_location_cg_member();

namespace {

constexpr double default_percent = 30.0;
void look_at_similarity(Values& values) {
    auto& settings = values.of<FacilityLocationSettings>();
    if (settings.similarity == SimilarityKind::file)
        settings.file_width = data::EmbeddingFile(settings.similarity_file).width();
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

/// With what all forms share.
template <FacilityForm form>
Member of_form(Member own) {
    own.make = make_facility_location<form>;
    own.by_similarity = true;
    own.figures = subset_figures;
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
