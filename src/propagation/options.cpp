#include "idistill/propagation/options.hpp"

#include "idistill/base/text.hpp"
#include "idistill/embedding/options.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/propagation/members.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/options.hpp"

namespace idistill::propagation {

using namespace options;
using nlohmann::json;

namespace {

const std::string nothing = "none";

double percent(const Given& given) {
    const auto& text = single(given);
    const auto value = text.ends_with('%') ? whole<double>(text.substr(0, text.size() - 1)) : std::nullopt;
    if (!value || !(*value > 0.0 && *value <= 100.0))
        refuse(given, "a percentage above 0% and up to 100%", in_quotes(text), "For example " + given.field + " 5%.");
    return *value;
}

void read_landmarks(PropagationSettings& settings, const Given& given) {
    const std::string text = single(given);
    const std::string prefix = "auto:";
    settings.landmarks_auto = text == "auto" || text.starts_with(prefix);
    settings.landmarks.reset();
    settings.landmarks_percent.reset();
    if (text.ends_with('%'))
        settings.landmarks_percent = percent(given);
    else if (text != "auto")
        settings.landmarks = number_within<std::int64_t>(
            given, settings.landmarks_auto ? text.substr(prefix.size()) : text, 1, std::int64_t{1} << 20);
}

json show_landmarks(const PropagationSettings& s) {
    if (s.landmarks_percent) return shortest(*s.landmarks_percent) + "%";
    if (!s.landmarks_auto) return s.landmarks.value_or(default_landmarks);
    return "auto:" + std::to_string(s.landmarks.value_or(most_auto_landmarks));
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
    auto labelled = propagation_option("labelled", "P%", "--landmarks as a percentage of the usable samples");
    labelled.rival = "landmarks";  // whose value stands in the identity
    labelled.decides = Decides::nothing;
    labelled.words = {{"5%", "P%"}};
    return {name_option(propagation_option("propagation", "KIND", help + "none: every sample exactly"),
                        &PropagationSettings::member, names),
            own_option<PropagationSettings>(
                propagation_option(
                    "landmarks", "L|P%|auto[:MOST]",
                    "samples of the pool with exact influence, or their share; the default is lowered to what the pool "
                    "has;\nauto: 256, doubled until leave-one-out R2 (mean over tasks) gains less than "
                    "0.01, at most MOST (8192)"),
                read_landmarks, show_landmarks),
            own_option<PropagationSettings>(
                labelled,
                [](PropagationSettings& settings, const Given& given) {
                    settings.landmarks_percent = percent(given);
                    settings.landmarks.reset();
                    settings.landmarks_auto = false;
                },
                [](const PropagationSettings& s) { return s.landmarks_percent ? show_landmarks(s) : json(); })};
}

std::vector<Option> refine_options() {
    auto refine = propagation_option(
        "refine", "X|auto",
        "exact influence, before selecting, of the X times as many samples as the budget that are predicted best; "
        "auto: X for 95% of the gain, by leave-one-out; 0: of none");
    refine.decides = Decides::shortlist;
    const auto fits = [](double value) { return value == 0.0 || (value >= 1.0 && value <= 1e6); };
    return {auto_or_number_option(refine, &PropagationSettings::refine, {"a factor from 1 to 1e6 (0: none)", fits})};
}

Option propagation_option(const std::string& name, const std::string& value_name, const std::string& help) {
    return {.name = name, .group = embedding::option_group, .value_name = value_name, .help = help};
}

std::string idle_refine(const Values& given, const std::string& option) {
    return option == "refine" ? selection::against_refining(given) : "";
}

bool propagates(const Values& values) { return values.of<PropagationSettings>().member != nothing; }

bool refines(const Values& values) {
    return propagates(values) && selection::against_refining(values).empty() &&
           values.of<PropagationSettings>().refine != 0.0;
}

}  // namespace idistill::propagation
