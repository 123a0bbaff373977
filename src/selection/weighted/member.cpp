// Optimal weights as a member: its options, and what they and others mean beside each other.

#include "idistill/base/error.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"
#include "selector.hpp"

namespace idistill::selection {

using namespace options;
using nlohmann::json;

Member weighted_member();  // listed in members.cpp

namespace {

bool one_column_per_sample(const Values& values) { return values.of<InputSettings>().columns == ColumnKind::samples; }

bool wants_second_order(const WeightedSettings& weighted) {
    return weighted.learning_rate || weighted.curvature == Curvature::hessian;
}

bool wants_weights(const WeightedSettings& weighted) {
    return weighted.order != Order::automatic || wants_second_order(weighted) || weighted.lambda ||
           weighted.max_weight || !weighted.source_share.empty();
}

/// The option that makes --order auto first-order; empty if none.
std::string against_second_order(const Values& values) {
    const auto& weighted = values.of<WeightedSettings>();
    if (weighted.lambda == 0.0) return "lambda";
    return one_column_per_sample(values) || wants_second_order(weighted) ? "" : "columns";
}

/// The option by which weights are of first order, given or as `auto` says; empty where they are of second.
std::string first_order_by(const Values& given) {
    const auto by = against_second_order(given);
    if (given.of<WeightedSettings>().order == Order::automatic) return by;
    return given.of<WeightedSettings>().order == Order::second ? "" : "order";
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

/// The option that leaves the number of samples open.
std::string against_number(const Values& given) {
    return given.of<WeightedSettings>().leaves_number_open() ? "lambda" : "";
}

std::vector<Option> weighted_options() {
    auto order = selection_option(
        "order", "ORDER",
        "of weighted: second-order: what samples have in common counts against them, by the curvature of the target "
        "loss;\nfirst-order: influence alone decides; auto: second-order, but with --columns tasks or --lambda 0",
        Decides::shortlist);
    order.old_spellings = {{"influence", {"auto", "second-order", "first-order"}}};
    return {
        choice_option(order, &WeightedSettings::order,
                      {{"auto", Order::automatic}, {"second-order", Order::second}, {"first-order", Order::first}}),
        choice_option(selection_option("curvature", "KIND",
                                       "of second-order: fisher: of the targets' gradients, needs --columns samples;\n"
                                       "hessian: the target loss's own, computed in the run",
                                       Decides::shortlist),
                      &WeightedSettings::curvature, {{"fisher", Curvature::fisher}, {"hessian", Curvature::hessian}}),
        auto_or_number_option(
            selection_option("learning-rate", "auto|X",
                             "of second-order: step size that the weights are optimal for; auto, by fisher: the "
                             "shortest after which a longer one gains little",
                             Decides::shortlist, {{"auto", "auto"}, {"1", "X"}}),
            &WeightedSettings::learning_rate),
        optional_option(
            selection_option("lambda", "X",
                             "of weighted: strength of the squared weights' penalty; the number of samples follows; 0 "
                             "(first-order): equal weights; without it, what gives --select samples",
                             Decides::nothing, {{"1", "X"}, {"0", "0"}}),
            &WeightedSettings::lambda, 0.0, 1e300),
        own_option<WeightedSettings>(
            selection_option("max-weight", "X|Fx",
                             "of weighted: no sample's /weight above X, where all weights add up to the number N of "
                             "samples in the pool (k selected ones: N/k in the mean); 5x: none above 5 times N/k, that "
                             "is above 5 in /selected/weight, for the k of --select",
                             Decides::shortlist, {{"9", "X"}, {"9x", "Fx"}}),
            read_max_weight, show_max_weight),
        of_sources_option(
            selection_option(
                "source-share", "NAME=S",
                "of weighted: at most this part of all weight, 0 to 1, goes to this source; may be repeated",
                Decides::shortlist, {{"source=0.5", "NAME=S"}}),
            &WeightedSettings::source_share, 0.0, 1.0)};
}

std::string idle_beside(const Values& given, const std::string& option) {
    if (option == "curvature" || option == "learning-rate") return first_order_by(given);
    if (option == "select-tokens" || option == "source-cap") return "selection";
    return option == "select" ? against_number(given) : "";
}

void check_together(const Values& meant) {
    const auto& weighted = meant.of<WeightedSettings>();
    const bool hessian = weighted.curvature == Curvature::hessian;
    if (weighted.order == Order::second) {
        if (hessian && !weighted.learning_rate)
            refuse_setting("--learning-rate",
                           "a number with --curvature hessian, whose few directions leave steps without end", "auto",
                           "Give --learning-rate, or use --curvature fisher.");
        if (weighted.lambda == 0.0)
            refuse_setting("--lambda", "a number above 0 with --order second-order", "0",
                           "Give a strength above 0, or leave --lambda out and give --select.");
        if (meant.command != Command::select && !one_column_per_sample(meant) && !hessian)
            refuse_setting(
                "--columns", "samples with --curvature fisher", "tasks",
                "Leave out --columns, or use --curvature hessian, or --order first-order without --learning-rate.");
    }
    // "5x" is a multiple of N/k, and k follows from lambda where that is given.
    if (weighted.max_weight_of_mean && weighted.leaves_number_open())
        refuse_setting("--max-weight", "a weight without x with --lambda, which leaves the number of samples open",
                       in_quotes(shortest(*weighted.max_weight) + "x"),
                       "Give the largest /weight itself: all weights add up to the number of samples in the pool.");
}

void resolve_order(Values& values) {
    const bool first = !against_second_order(values).empty();
    if (auto& order = values.of<WeightedSettings>().order; order == Order::automatic)
        order = first ? Order::first : Order::second;
}

std::string against_weights(const Values& given) {
    const auto& budget = given.of<BudgetSettings>();
    if (budget.tokens) return "select-tokens";
    if (!budget.source_cap.empty()) return "source-cap";
    return one_column_per_sample(given) || wants_weights(given.of<WeightedSettings>()) ? "" : "columns";
}

std::string against_hessian(const Values& given) {
    const auto by = first_order_by(given);
    return !by.empty() || given.of<WeightedSettings>().curvature == Curvature::hessian ? by : "curvature";
}

}  // namespace

Member weighted_member() {
    return {.name = "weighted",
            .help = "optimal weights",
            .make = make_weighted,
            .options = weighted_options,
            .idle = idle_beside,
            .resolve = resolve_order,
            .check = check_together,
            .figures = weight_figures,
            .against_auto = against_weights,
            .not_auto_with = "--columns tasks, --select-tokens or --source-cap",
            .against_refining = against_number,
            .against_extras = against_hessian};
}

}  // namespace idistill::selection
