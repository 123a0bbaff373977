#include "idistill/selection/options.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>

#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

using namespace options;
using nlohmann::json;

namespace {

const std::string automatic = "auto";
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

void read_select(BudgetSettings& settings, const Given& given) {
    const std::string& text = single(given);
    settings.samples.reset();
    settings.percent.reset();
    if (!text.empty() && text.back() == '%') {
        const auto percent = whole<double>(text.substr(0, text.size() - 1));
        if (!percent || !(*percent > 0.0 && *percent <= 100.0))
            refuse(given, "a percentage above 0% and up to 100%", in_quotes(text), "For example --select 5%.");
        settings.percent = percent;
        return;
    }
    const auto count = whole<std::int64_t>(text);
    if (!count || *count < 1)
        refuse(given, "a count of at least 1, or a percentage", in_quotes(text),
               "For example --select 10000 or --select 5%.");
    settings.samples = count;
}

json show_select(const BudgetSettings& s) {
    if (s.percent) return shortest(*s.percent) + "%";
    return s.samples ? json(*s.samples) : json();
}

}  // namespace

std::vector<Option> selection_options() {
    std::vector<std::string> names{automatic};
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += member.name + " (" + member.help + "), ";
    }
    help.erase(help.size() - 2);
    std::map<double, std::string> shares;
    for (const auto& member : members())
        shares[member.percent] += (shares[member.percent].empty() ? "" : ", ") + member.name;
    std::string defaults = "; without it ";
    for (const auto& [percent, of] : shares)
        defaults += shortest(percent) + "%" + (percent == shares.begin()->first ? "" : " (" + of + ")") + ", ";
    defaults.erase(defaults.size() - 2);
    help += ";\nauto: ";
    for (auto member = members().begin(); member != members().end(); ++member) {
        help += member->name + (member == members().begin() ? "" : " with " + std::prev(member)->not_auto_with);
        if (member->against_auto == nullptr) break;
        help += ", but ";
    }
    auto tokens =
        selection_option("select-tokens", "N", "budget in tokens instead: stop before the first sample that exceeds it",
                         Decides::shortlist, {{"1000", "N"}});
    tokens.rival = "select";
    return {
        name_option(selection_option("selection", "RULE", help, Decides::shortlist), &SelectionSettings::member, names),
        own_option<BudgetSettings>(
            selection_option("select", "N|P%",
                             "how many samples to select: a count, or a percentage of the pool (at least 1)" + defaults,
                             Decides::shortlist),
            read_select, show_select),
        optional_option(tokens, &BudgetSettings::tokens, 1, most),
        of_sources_option(selection_option("source-cap", "NAME=N", "at most N samples of this source; may be repeated",
                                           Decides::shortlist, {{"source=10", "NAME=N"}}),
                          &BudgetSettings::source_cap, 0, most)};
}

Option selection_option(const std::string& name, const std::string& value_name, const std::string& help,
                        Decides decides, const std::vector<Word>& words) {
    return {.name = name,
            .group = "Selection",
            .value_name = value_name,
            .help = help,
            .of_select = true,
            .decides = decides,
            .words = words};
}

void complete_budget(Values& values) {
    const double percent = chosen_by(resolved(values)).percent;
    auto& budget = values.of<BudgetSettings>();
    if (!budget.samples && !budget.percent && !budget.tokens) budget.percent = percent;
}

Values resolved(Values values) {
    for (const auto& member : members())
        if (auto& chosen = values.of<SelectionSettings>().member;
            chosen == automatic && (member.against_auto == nullptr || member.against_auto(values).empty()))
            chosen = member.name;
    for (const auto& member : members())
        if (member.resolve != nullptr) member.resolve(values);
    return values;
}

void check(const Values& meant) {
    if (const auto& member = chosen_by(meant); member.check != nullptr) member.check(meant);
}

std::string against_choice(const Values& given, const Member& member) {
    if (chosen_by(resolved(given)).name == member.name) return {};
    const bool left_open = given.of<SelectionSettings>().member == automatic && member.against_auto != nullptr;
    const auto by = left_open ? member.against_auto(given) : std::string();
    return by.empty() ? "selection" : by;
}

std::string against_extras(const Values& given) {
    if (const auto& member = chosen_by(resolved(given)); member.against_extras != nullptr)
        return member.against_extras(given);
    for (const auto& member : members())
        if (member.against_extras != nullptr) return against_choice(given, member);
    return "selection";
}

std::string against_refining(const Values& given) {
    const auto& member = chosen_by(resolved(given));
    return member.against_refining != nullptr ? member.against_refining(given) : std::string();
}

}  // namespace idistill::selection
