#include "report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "idistill/io/result_datasets.hpp"

namespace idistill::propagation {
namespace {

std::size_t longest(const std::vector<std::string>& texts, std::size_t least = 0) {
    for (const auto& text : texts) least = std::max(least, text.size());
    return least;
}

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
    const auto width = longest(candidates, 9);
    auto text = fmt::format(
        "embeddings by leave-one-out, means over tasks; cost over that of exact influence; chosen: the cheapest whose "
        "error (1 - R2) is within 2% of the least\n"
        "  {:<{}}  {:>12} {:>7} {:>9} {:>7} {:>7}\n",
        "embedding", width, "R2 in source", "R2", "Spearman", "error", "cost");
    const auto& trials = fit.trials;
    for (std::size_t i = 0; i < candidates.size(); ++i)
        text += fmt::format("  {:<{}}  {:>12.3f} {:>7.3f} {:>9.3f} {:>7.4f} {:>7.3f}{}\n", candidates[i], width,
                            trials.r2_within_source[i], trials.r2[i], trials.spearman[i], trials.error[i],
                            trials.cost[i], i == fit.candidate ? "  chosen" : "");
    return text;
}

/// Names of all embeddings, of which the result has those in use, and of all combinations.
io::ResultDatasets<Fit> fit_datasets(std::int64_t columns, std::int64_t tasks, const std::vector<std::string>& names,
                                     const std::vector<std::string>& candidates) {
    io::ResultDatasets<Fit> made;
    for (const auto& [name, of] : trust_datasets)
        made.numbers<double>(
            name, of == &Trust::column_r2 ? columns : tasks, [of = of](const Fit& fit) -> const auto& {
                return fit.trust.*of;
            });
    made.texts("/embedding/name", std::ssize(names), io::longest_of(names), [names](const Fit& fit) {
        std::vector<std::string> used;
        for (const auto place : fit.embeddings) used.push_back(names[place]);
        return used;
    });
    made.numbers<double>(
        "/embedding/bandwidth", std::ssize(names),
        [](const Fit& fit) -> const auto& { return fit.solution.embedding_bandwidths; });
    if (candidates.size() < 2) return made;
    const auto count = std::ssize(candidates);
    made.texts("/embedding/candidate/name", count, io::longest_of(candidates),
               [candidates](const Fit&) { return candidates; });
    for (const auto& [name, of] : trial_datasets)
        made.numbers<double>(
            name, count, [of = of](const Fit& fit) -> const auto& { return fit.trials.*of; });
    return made;
}

}  // namespace

std::string fit_report(const Fit& fit, const Tasks& tasks, const std::vector<std::string>& candidates,
                       bool damping_given) {
    std::string text;
    if (!fit.trials.cost.empty()) text += embedding_table(fit, candidates);
    if (fit.kernels.size() > 1) text += kernel_table(fit);
    text += fmt::format(
        "leave-one-out trust in the propagation from {} landmarks (damping {:.4g}{}, {} intercept, bandwidth {})\n",
        fit.solution.landmarks.embedding.size(0), fit.solution.damping, damping_given ? "" : " by leave-one-out",
        fit.solution.has_intercept ? "with" : "without", shown(fit.solution.embedding_bandwidths));
    const bool several = fit.solution.landmarks.embedding.size(0) > 1;
    return text + trust_report(fit.trust, tasks.names, "leave-one-out", several);
}

void plan_fit(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, const std::vector<std::string>& names,
              const std::vector<std::string>& candidates) {
    fit_datasets(columns, tasks, names, candidates).plan(plan);
}

void write_fit(io::ResultWriter& writer, const Fit& fit, const std::vector<std::string>& names,
               const std::vector<std::string>& candidates) {
    fit_datasets(std::ssize(fit.trust.column_r2), std::ssize(fit.trust.task_r2), names, candidates).write(writer, fit);
    writer.attribute("damping", fit.solution.damping);
    writer.attribute("intercept", static_cast<std::int64_t>(fit.solution.has_intercept));
    writer.attribute("embedding", candidates[fit.candidate]);
    writer.attribute("bandwidth", fit.solution.embedding_bandwidths.front());
    writer.attribute("kernel", std::string(fit.solution.kernel.product ? "product" : "sum"));
}

}  // namespace idistill::propagation
