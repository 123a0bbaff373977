// What people and the result are told of a fit.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "member.hpp"

namespace idistill::propagation {
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
std::string kernel_table(const Fit& fit) {
    const auto& solution = fit.solution;
    std::size_t width = 9;
    for (const auto& trial : fit.kernels) width = std::max(width, shown(trial.bandwidths).size());
    const bool several = solution.embedding_bandwidths.size() > 1;
    auto text =
        fmt::format("leave-one-out error (mean of 1 - R2 over tasks) of every bandwidth{} with its best damping\n",
                    several ? " and kernel" : "");
    const auto kernel = [several](const char* name) { return several ? fmt::format("  {:>7}", name) : std::string(); };
    text += fmt::format("  {:>{}}{}  {:>9} {:>9} {:>9}\n", "bandwidth", width, kernel("kernel"), "damping", "intercept",
                        "error");
    for (const auto& trial : fit.kernels)
        text += fmt::format("  {:>{}}{}  {:>9.4g} {:>9} {:>9.4f}{}\n", shown(trial.bandwidths), width,
                            kernel(trial.product ? "product" : "sum"), trial.best.damping,
                            trial.best.intercept ? "with" : "without", trial.best.error,
                            is_chosen(trial, solution) ? "  chosen" : "");
    return text;
}

/// What --embedding auto compared, the chosen one marked.
std::string embedding_table(const Fit& fit, const std::vector<std::string>& candidates) {
    std::size_t width = 9;
    for (const auto& candidate : candidates) width = std::max(width, candidate.size());
    auto text = fmt::format(
        "embeddings by leave-one-out, means over tasks; cost over that of exact influence; chosen: the cheapest whose "
        "error (1 - R2) is within 2% of the least\n"
        "  {:<{}}  {:>12} {:>7} {:>9} {:>7} {:>7}\n",
        "embedding", width, "R2 in source", "R2", "Spearman", "error", "cost");
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const auto& trial = fit.trials[i];
        text += fmt::format("  {:<{}}  {:>12.3f} {:>7.3f} {:>9.3f} {:>7.4f} {:>7.3f}{}\n", candidates[i], width,
                            trial.r2_within_source, trial.r2, trial.spearman, trial.error, trial.cost,
                            i == fit.candidate ? "  chosen" : "");
    }
    return text;
}

}  // namespace

std::string fit_report(const Fit& fit, const Tasks& tasks, const ReportFacts& facts) {
    const auto& trust = fit.trust;
    std::size_t width = 4;
    for (const auto& name : tasks.names) width = std::max(width, name.size());
    std::string text;
    if (!fit.trials.empty()) text += embedding_table(fit, facts.candidates);
    if (fit.kernels.size() > 1) text += kernel_table(fit);
    text += fmt::format(
        "leave-one-out trust in the propagation from {} landmarks (damping {:.4g}{}, {} intercept, bandwidth {})\n",
        fit.solution.landmarks.embedding.size(0), fit.solution.damping, facts.damping_given ? "" : " by leave-one-out",
        fit.solution.has_intercept ? "with" : "without", shown(fit.solution.embedding_bandwidths));
    text += fmt::format("  {:<{}}  {:>7} {:>14} {:>9} | source name alone: {:>5} {:>9}\n", "task", width, "R2",
                        "R2 in source", "Spearman", "R2", "Spearman");
    std::vector<std::string> low, no_gain, blind;
    for (std::size_t task = 0; task < tasks.names.size(); ++task) {
        const auto& name = tasks.names[task];
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

void plan_fit(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, const std::vector<std::string>& names,
              const std::vector<std::string>& candidates) {
    const auto longest = [](const std::vector<std::string>& texts) {
        std::size_t most = 0;
        for (const auto& text : texts) most = std::max(most, text.size());
        return static_cast<double>(most);
    };
    plan.result.push_back({"/column/loo_r2", columns, 8.0});
    for (const char* name : {"r2", "r2_within_source", "spearman", "r2_source_only", "spearman_source_only"})
        plan.result.push_back({std::string("/task/loo_") + name, tasks, 8.0});
    plan.result.push_back({"/embedding/name", std::ssize(names), longest(names)});
    plan.result.push_back({"/embedding/bandwidth", std::ssize(names), 8.0});
    if (candidates.size() < 2) return;
    plan.result.push_back({"/embedding/candidate/name", std::ssize(candidates), longest(candidates)});
    for (const char* name : {"loo_r2_within_source", "loo_r2", "loo_spearman", "loo_error", "cost"})
        plan.result.push_back({std::string("/embedding/candidate/") + name, std::ssize(candidates), 8.0});
}

void write_fit(io::ResultWriter& writer, const Fit& fit, const std::vector<std::string>& names,
               const std::vector<std::string>& candidates) {
    const auto& trust = fit.trust;
    writer.small<double>("/column/loo_r2", trust.column_r2);
    writer.small<double>("/task/loo_r2", trust.task_r2);
    writer.small<double>("/task/loo_r2_within_source", trust.task_r2_within_source);
    writer.small<double>("/task/loo_spearman", trust.task_spearman);
    writer.small<double>("/task/loo_r2_source_only", trust.task_r2_source_only);
    writer.small<double>("/task/loo_spearman_source_only", trust.task_spearman_source_only);
    writer.attribute("damping", fit.solution.damping);
    writer.attribute("intercept", static_cast<std::int64_t>(fit.solution.has_intercept));
    writer.attribute("embedding", candidates[fit.candidate]);
    writer.attribute("bandwidth", fit.solution.embedding_bandwidths.front());
    writer.attribute("kernel", std::string(fit.solution.kernel.product ? "product" : "sum"));
    std::vector<std::string> used;
    for (const auto place : fit.embeddings) used.push_back(names[place]);
    writer.strings("/embedding/name", used);
    writer.small<double>("/embedding/bandwidth", fit.solution.embedding_bandwidths);
    if (fit.trials.empty()) return;
    writer.strings("/embedding/candidate/name", candidates);
    const auto write = [&](const std::string& name, double EmbeddingTrial::*member) {
        std::vector<double> values;
        for (const auto& trial : fit.trials) values.push_back(trial.*member);
        writer.small<double>("/embedding/candidate/" + name, values);
    };
    write("loo_r2_within_source", &EmbeddingTrial::r2_within_source);
    write("loo_r2", &EmbeddingTrial::r2);
    write("loo_spearman", &EmbeddingTrial::spearman);
    write("loo_error", &EmbeddingTrial::error);
    write("cost", &EmbeddingTrial::cost);
}

}  // namespace idistill::propagation
