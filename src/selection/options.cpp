#include "idistill/selection/options.hpp"

#include <limits>

#include "idistill/options/option_kinds.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

using namespace options;
using nlohmann::json;

namespace {

const std::string group = "Selection";
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
    std::vector<std::string> names{"auto"};
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += member.name + " (" + member.help + "), ";
    }
    help.erase(help.size() - 2);
    return {
        name_option(
            {.name = "selection",
             .group = group,
             .value_name = "RULE",
             .help = help + ";\nauto: weighted, but round-robin with --columns tasks, --select-tokens or --source-cap",
             .of_select = true,
             .decides = Decides::shortlist},
            &SelectionSettings::member, names),
        own_option<BudgetSettings>(
            {.name = "select",
             .group = group,
             .value_name = "N|P%",
             .help = "how many samples to select: a count, or a percentage of the pool (at least 1)",
             .of_select = true,
             .decides = Decides::shortlist},
            read_select, show_select),
        optional_option({.name = "select-tokens",
                         .group = group,
                         .value_name = "N",
                         .help = "budget in tokens instead: stop before the first sample that exceeds it",
                         .of_select = true,
                         .decides = Decides::shortlist,
                         .rival = "select",
                         .words = {{"1000", "N"}}},
                        &BudgetSettings::tokens, 1, most),
        named_numbers_option({.name = "source-cap",
                              .group = group,
                              .value_name = "NAME=N",
                              .help = "at most N samples of this source; may be repeated",
                              .of_select = true,
                              .decides = Decides::shortlist,
                              .words = {{"source=10", "NAME=N"}}},
                             &BudgetSettings::source_cap, 0, most)};
}

void complete_budget(Values& values) {
    auto& budget = values.of<BudgetSettings>();
    if (!budget.samples && !budget.percent && !budget.tokens) budget.percent = 5.0;
}

std::string against_refining(const Values& values) {
    const auto rule = resolved(values).of<SelectionSettings>().member;
    for (const auto& member : members())
        if (member.name == rule && !member.ranks_influence) return "selection";
    return leaves_number_open(values) ? "lambda" : "";
}

}  // namespace idistill::selection
