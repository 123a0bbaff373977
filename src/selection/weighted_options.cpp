// Options of --selection weighted, and when `auto` comes to it.

#include "idistill/base/error.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

using namespace options;
using nlohmann::json;

namespace {

const std::string group = "Selection";
const std::string own_name = "weighted";

bool chooses_weights(const Values& values) { return values.of<SelectionSettings>().member == own_name; }

bool one_column_per_sample(const Values& values) { return values.of<InputSettings>().columns == ColumnKind::samples; }

bool wants_second_order(const WeightedSettings& weighted) {
    return weighted.learning_rate || weighted.curvature == Curvature::hessian;
}

bool wants_weights(const WeightedSettings& weighted) {
    return weighted.order != Order::automatic || wants_second_order(weighted) || weighted.lambda ||
           weighted.max_weight || !weighted.source_share.empty();
}

/// The option that makes --selection auto round robin; empty if none.
std::string against_weights(const Values& values) {
    const auto& budget = values.of<BudgetSettings>();
    if (budget.tokens) return "select-tokens";
    if (!budget.source_cap.empty()) return "source-cap";
    return one_column_per_sample(values) || wants_weights(values.of<WeightedSettings>()) ? "" : "columns";
}

/// The option that makes --order auto first-order; empty if none.
std::string against_second_order(const Values& values) {
    const auto& weighted = values.of<WeightedSettings>();
    if (weighted.lambda == 0.0) return "lambda";
    return one_column_per_sample(values) || wants_second_order(weighted) ? "" : "columns";
}

/// The option that says that there are no weights, or that which `auto` goes by.
std::string weights_excluded_by(const Values& given) {
    const auto by = against_weights(given);
    return given.of<SelectionSettings>().member == "auto" && !by.empty() ? by : "selection";
}

std::string second_order_excluded_by(const Values& given) {
    const auto by = against_second_order(given);
    return given.of<WeightedSettings>().order == Order::automatic && !by.empty() ? by : "order";
}

/// The option that keeps second order out; empty where weights are chosen to it.
std::string against_second_order_weights(const Values& given) {
    const auto values = resolved(given);
    if (!chooses_weights(values)) return weights_excluded_by(given);
    return values.of<WeightedSettings>().order == Order::second ? "" : second_order_excluded_by(given);
}

void read_max_weight(WeightedSettings& settings, const Given& given) {
    std::string text = single(given);
    settings.max_weight_of_mean = text.size() > 1 && text.back() == 'x';
    if (settings.max_weight_of_mean) text.pop_back();
    const auto value = whole<double>(text);
    const double least = settings.max_weight_of_mean ? 1.0 : 0.0;
    if (!value || !(*value >= least && *value > 0.0 && *value <= 1e300))
        refuse(given, "a weight above 0, or a multiple of the mean of at least 1x", in_quotes(given.values.front()),
               "For example --max-weight 5x.");
    settings.max_weight = *value;
}

json show_max_weight(const WeightedSettings& s) {
    if (!s.max_weight) return {};
    return s.max_weight_of_mean ? json(shortest(*s.max_weight) + "x") : json(*s.max_weight);
}

[[noreturn]] void refuse_setting(const std::string& field, const std::string& expected, const std::string& found,
                                 const std::string& remedy) {
    refuse({command_line, field, {}}, expected, found, remedy);
}

}  // namespace

std::vector<Option> weighted_options() {
    return {
        choice_option({.name = "order",
                       .group = group,
                       .value_name = "ORDER",
                       .help = "of weighted: second-order: what samples have in common counts against them, by the "
                               "curvature of the target loss;\nfirst-order: influence alone decides; auto: "
                               "second-order, but with --columns tasks or --lambda 0",
                       .of_select = true,
                       .decides = Decides::nothing,
                       .old_spellings = {{"influence", {"auto", "second-order", "first-order"}}}},
                      &WeightedSettings::order,
                      {{"auto", Order::automatic}, {"second-order", Order::second}, {"first-order", Order::first}}),
        choice_option({.name = "curvature",
                       .group = group,
                       .value_name = "KIND",
                       .help = "of second-order: fisher: of the targets' gradients, needs --columns samples;\n"
                               "hessian: the target loss's own, computed in the run",
                       .of_select = true,
                       .decides = Decides::nothing},
                      &WeightedSettings::curvature, {{"fisher", Curvature::fisher}, {"hessian", Curvature::hessian}}),
        auto_or_number_option(
            {.name = "learning-rate",
             .group = group,
             .value_name = "auto|X",
             .help = "of second-order: step size that the weights are optimal for; auto, by fisher: the shortest "
                     "after which a longer one gains little",
             .of_select = true,
             .decides = Decides::nothing,
             .words = {{"auto", "auto"}, {"1", "X"}}},
            &WeightedSettings::learning_rate),
        optional_option({.name = "lambda",
                         .group = group,
                         .value_name = "X",
                         .help = "of weighted: strength of the squared weights' penalty; the number of samples "
                                 "follows; 0 (first-order): equal weights; without it, what gives --select "
                                 "samples",
                         .of_select = true,
                         .decides = Decides::nothing,
                         .words = {{"1", "X"}, {"0", "0"}}},
                        &WeightedSettings::lambda, 0.0, 1e300),
        own_option<WeightedSettings>(
            {.name = "max-weight",
             .group = group,
             .value_name = "X|Fx",
             .help = "of weighted: no sample's /weight above X, where all weights add up to the number N of "
                     "samples in the pool (k selected ones: N/k in the mean); 5x: none above 5 times N/k, that is "
                     "above 5 in /selected/weight, for the k of --select",
             .of_select = true,
             .decides = Decides::nothing,
             .words = {{"9", "X"}, {"9x", "Fx"}}},
            read_max_weight, show_max_weight),
        named_numbers_option(
            {.name = "source-share",
             .group = group,
             .value_name = "NAME=S",
             .help = "of weighted: at most this part of all weight, 0 to 1, goes to this source; may be repeated",
             .of_select = true,
             .decides = Decides::shortlist,
             .words = {{"source=0.5", "NAME=S"}}},
            &WeightedSettings::source_share, 0.0, 1.0)};
}

std::string idle_weighted(const Values& values, const std::string& option) {
    if (option == "curvature" || option == "learning-rate") return against_second_order_weights(values);
    if (!chooses_weights(resolved(values))) {
        const bool own = option == "order" || option == "lambda" || option == "max-weight" || option == "source-share";
        return own ? weights_excluded_by(values) : "";
    }
    if (option == "select-tokens" || option == "source-cap") return "selection";
    return option == "select" && leaves_number_open(values) ? "lambda" : "";
}

void check_weighted(const Values& meant) {
    const auto& weighted = meant.of<WeightedSettings>();
    if (chooses_weights(meant) && weighted.order == Order::second) {
        if (uses_hessian(meant) && !weighted.learning_rate)
            refuse_setting("--learning-rate",
                           "a number with --curvature hessian, whose few directions leave steps without end", "auto",
                           "Give --learning-rate, or use --curvature fisher.");
        if (weighted.lambda == 0.0)
            refuse_setting("--lambda", "a number above 0 with --order second-order", "0",
                           "Give a strength above 0, or leave --lambda out and give --select.");
        if (meant.command != Command::select && !one_column_per_sample(meant) && !uses_hessian(meant))
            refuse_setting(
                "--columns", "samples with --curvature fisher", "tasks",
                "Leave out --columns, or use --curvature hessian, or --order first-order without --learning-rate.");
    }
    // "5x" is a multiple of N/k, and k follows from lambda where that is given.
    if (weighted.max_weight_of_mean && leaves_number_open(meant))
        refuse_setting("--max-weight", "a weight without x with --lambda, which leaves the number of samples open",
                       in_quotes(shortest(*weighted.max_weight) + "x"),
                       "Give the largest /weight itself: all weights add up to the number of samples in the pool.");
}

Values resolved(Values values) {
    const bool turns = !against_weights(values).empty(), first = !against_second_order(values).empty();
    if (auto& rule = values.of<SelectionSettings>().member; rule == "auto") rule = turns ? "round-robin" : own_name;
    if (auto& order = values.of<WeightedSettings>().order; order == Order::automatic)
        order = first ? Order::first : Order::second;
    return values;
}

bool leaves_number_open(const Values& values) {
    return chooses_weights(resolved(values)) && values.of<WeightedSettings>().lambda.value_or(0.0) > 0.0;
}

std::string against_hessian(const Values& values) {
    const auto by = against_second_order_weights(values);
    return !by.empty() || values.of<WeightedSettings>().curvature == Curvature::hessian ? by : "curvature";
}

bool uses_hessian(const Values& values) { return against_hessian(values).empty(); }

}  // namespace idistill::selection
