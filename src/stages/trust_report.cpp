#include "trust_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace idistill::stages {
namespace {

// Below these the ranking within the pool is mostly noise: at a leave-one-out R2 of 0.3 about half of the true top 10 %
// are found (measured on 400 samples of a real pool).
constexpr double low_r2 = 0.3;
constexpr double low_within_source = 0.1;

/// Bandwidths of the embeddings, in their order.
std::string shown(const std::vector<double>& bandwidths) {
    std::string text;
    for (const double bandwidth : bandwidths) text += fmt::format("{}{:.4g}", text.empty() ? "" : "/", bandwidth);
    return text;
}

/// What --bandwidth auto and --kernel auto compared, the chosen one marked.
std::string kernel_table(const Propagation& propagation) {
    const auto& solution = propagation.solution;
    std::size_t width = 9;
    for (const auto& trial : propagation.kernels) width = std::max(width, shown(trial.bandwidths).size());
    const bool several = solution.embedding_bandwidths.size() > 1;
    auto text =
        fmt::format("leave-one-out error (mean of 1 - R2 over tasks) of every bandwidth{} with its best damping\n",
                    several ? " and kernel" : "");
    const auto kernel = [several](const char* name) { return several ? fmt::format("  {:>7}", name) : std::string(); };
    text += fmt::format("  {:>{}}{}  {:>9} {:>9} {:>9}\n", "bandwidth", width, kernel("kernel"), "damping", "intercept",
                        "error");
    for (const auto& trial : propagation.kernels)
        text += fmt::format("  {:>{}}{}  {:>9.4g} {:>9} {:>9.4f}{}\n", shown(trial.bandwidths), width,
                            kernel(trial.product ? "product" : "sum"), trial.best.damping,
                            trial.best.intercept ? "with" : "without", trial.best.error,
                            propagation::is_chosen(trial, solution) ? "  chosen" : "");
    return text;
}

/// What --embedding auto compared, the chosen one marked.
std::string embedding_table(const config::Settings& settings, const Propagation& propagation) {
    const auto parts = config::embedding_parts(settings);
    const auto candidates = config::embedding_candidates(settings);
    std::size_t width = 9;
    for (const auto& candidate : candidates) width = std::max(width, config::joined_name(parts, candidate).size());
    auto text = fmt::format(
        "embeddings by leave-one-out, means over tasks; cost over that of exact influence; chosen: the cheapest whose "
        "error (1 - R2) is within 2% of the least\n"
        "  {:<{}}  {:>12} {:>7} {:>9} {:>7} {:>7}\n",
        "embedding", width, "R2 in source", "R2", "Spearman", "error", "cost");
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const auto& trial = propagation.trials[i];
        text += fmt::format("  {:<{}}  {:>12.3f} {:>7.3f} {:>9.3f} {:>7.4f} {:>7.3f}{}\n",
                            config::joined_name(parts, candidates[i]), width, trial.r2_within_source, trial.r2,
                            trial.spearman, trial.error, trial.cost,
                            candidates[i] == propagation.embeddings ? "  chosen" : "");
    }
    return text;
}

}  // namespace

std::string trust_report(const config::Settings& settings, const Propagation& propagation) {
    const auto& trust = propagation.trust;
    std::size_t width = 4;
    for (const auto& target : settings.targets) width = std::max(width, target.name.size());
    std::string text;
    if (!propagation.trials.empty()) text += embedding_table(settings, propagation);
    if (propagation.kernels.size() > 1) text += kernel_table(propagation);
    text += fmt::format(
        "leave-one-out trust in the propagation from {} landmarks (damping {:.4g}{}, {} intercept, bandwidth {})\n",
        propagation.solution.landmarks.embedding.size(0), propagation.solution.damping,
        settings.damping ? "" : " by leave-one-out", propagation.solution.has_intercept ? "with" : "without",
        shown(propagation.solution.embedding_bandwidths));
    text += fmt::format("  {:<{}}  {:>7} {:>14} {:>9} | source name alone: {:>5} {:>9}\n", "task", width, "R2",
                        "R2 in source", "Spearman", "R2", "Spearman");
    std::vector<std::string> low, no_gain, blind;
    for (std::size_t task = 0; task < settings.targets.size(); ++task) {
        const auto& name = settings.targets[task].name;
        text += fmt::format("  {:<{}}  {:>7.3f} {:>14.3f} {:>9.3f} | {:>24.3f} {:>9.3f}\n", name, width,
                            trust.task_r2[task], trust.task_r2_within_source[task], trust.task_spearman[task],
                            trust.task_r2_source_only[task], trust.task_spearman_source_only[task]);
        if (!(trust.task_r2[task] >= low_r2)) low.push_back(name);
        if (trust.task_r2[task] <= trust.task_r2_source_only[task]) no_gain.push_back(name);
        if (trust.task_r2_within_source[task] < low_within_source) blind.push_back(name);
    }
    if (!low.empty())
        text += fmt::format(
            "warning: leave-one-out R2 is below {} for {}: the propagated ranking is mostly noise there. Use more "
            "--landmarks, another "
            "--embedding, or --propagation none for exact influence.\n",
            low_r2, fmt::join(low, ", "));
    if (!no_gain.empty())
        text += fmt::format(
            "warning: for {} the embedding predicts no better than the source's name alone: more --landmarks or "
            "another --embedding are "
            "worth their cost only if that changes.\n",
            fmt::join(no_gain, ", "));
    if (!blind.empty())
        text += fmt::format(
            "note: R2 within source is below {} for {}: the propagation tells good sources from bad ones, but hardly "
            "good samples from bad "
            "ones within a source. --propagation none does.\n",
            low_within_source, fmt::join(blind, ", "));
    text.pop_back();
    return text;
}

}  // namespace idistill::stages
