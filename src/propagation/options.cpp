#include "idistill/propagation/options.hpp"

#include <set>

#include "idistill/embedding/options.hpp"
#include "idistill/embedding/parts.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/propagation/members.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/options.hpp"

namespace idistill::propagation {

using namespace options;
using nlohmann::json;

namespace {

const std::string group = "Propagation (from landmarks to the pool)";
const std::string nothing = "none";

void read_landmarks(PropagationSettings& settings, const Given& given) {
    const std::string text = single(given);
    const std::string prefix = "auto:";
    settings.landmarks_auto = text == "auto" || text.starts_with(prefix);
    settings.landmarks.reset();
    if (text != "auto")
        settings.landmarks = number_within<std::int64_t>(
            given, settings.landmarks_auto ? text.substr(prefix.size()) : text, 1, std::int64_t{1} << 20);
}

json show_landmarks(const PropagationSettings& s) {
    if (!s.landmarks_auto) return s.landmarks.value_or(default_landmarks);
    return "auto:" + std::to_string(s.landmarks.value_or(most_auto_landmarks));
}

/// Options that say how influence is propagated.
const std::set<std::string>& of_propagation() {
    static const std::set<std::string> names = [] {
        std::set<std::string> names_here;
        const auto add = [&names_here](const std::vector<Option>& options) {
            for (const auto& option : options) names_here.insert(option.name);
        };
        add(propagation_options());
        add(embedding::embedding_options());
        add(refine_options());
        for (const auto& member : members())
            if (member.options != nullptr) add(member.options());
        names_here.erase("propagation");
        return names_here;
    }();
    return names;
}

}  // namespace

std::vector<Option> propagation_options() {
    std::vector<std::string> names;
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += member.name + ": " + member.help + ";\n";
    }
    names.push_back(nothing);
    return {
        name_option(
            {.name = "propagation", .group = group, .value_name = "KIND", .help = help + "none: every sample exactly"},
            &PropagationSettings::member, names),
        own_option<PropagationSettings>(
            {.name = "landmarks",
             .group = group,
             .value_name = "L|auto[:MOST]",
             .help = "samples of the pool with exact influence; the default is lowered to what the pool has;\n"
                     "auto: 256, doubled until leave-one-out R2 (mean over tasks) gains less than 0.01, at most "
                     "MOST (8192)"},
            read_landmarks, show_landmarks)};
}

std::vector<Option> kernel_ridge_options() {
    return {
        choice_option(
            {.name = "kernel",
             .group = group,
             .value_name = "KIND",
             .help = "of several embeddings: sum (the mean) or product of each one's own kernel; auto: "
                     "chosen by leave-one-out"},
            &KernelRidgeSettings::kernel,
            {{"auto", KernelChoice::automatic}, {"sum", KernelChoice::sum}, {"product", KernelChoice::product}}),
        switch_option({.name = "metadata",
                       .group = group,
                       .value_name = "on|off",
                       .help = "also use source and lengths of the samples"},
                      &KernelRidgeSettings::metadata),
        auto_or_number_option(
            {.name = "damping", .group = group, .value_name = "auto|X", .help = "ridge; auto: chosen by leave-one-out"},
            &KernelRidgeSettings::damping),
        word_or_number_option<KernelRidgeSettings>(
            {.name = "bandwidth",
             .group = group,
             .value_name = "median|auto|X",
             .help = "width of the kernel in embedding distance; auto: of 1/4, 1/2, 1, 2 and 4 times the median "
                     "distance, chosen by leave-one-out with the damping"},
            {"median", "auto"}, above_zero(),
            [](KernelRidgeSettings& settings, const WordOrNumber& value) {
                settings.bandwidth_auto = value.word == "auto";
                settings.bandwidth = value.number;
            },
            [](const KernelRidgeSettings& s) {
                return s.bandwidth ? json(*s.bandwidth) : json(s.bandwidth_auto ? "auto" : "median");
            })};
}

std::vector<Option> refine_options() {
    return {auto_or_number_option(
        {.name = "refine",
         .group = group,
         .value_name = "X|auto",
         .help = "exact influence, before selecting, of the X times as many samples as the budget that are predicted "
                 "best; auto: X for 95% of the gain, by leave-one-out; 0: of none",
         .decides = Decides::shortlist},
        &PropagationSettings::refine, {"a factor from 1 to 1e6 (0: none)", [](double value) {
                                           return value == 0.0 || (value >= 1.0 && value <= 1e6);
                                       }})};
}

std::string idle_propagation(const Values& values, const std::string& option) {
    const bool exact = values.command != Command::select && !propagates(values);
    if (exact && of_propagation().contains(option)) return "propagation";
    return option == "refine" ? selection::against_refining(values) : "";
}

std::string idle_kernel_ridge(const Values& values, const std::string& option) {
    const bool one = embedding::embedding_names(values.of<embedding::EmbeddingSettings>()).size() == 1;
    return option == "kernel" && one ? "embedding" : "";
}

bool propagates(const Values& values) { return values.of<PropagationSettings>().member != nothing; }

bool refines(const Values& values) {
    return propagates(values) && selection::against_refining(values).empty() &&
           values.of<PropagationSettings>().refine != 0.0;
}

}  // namespace idistill::propagation
