#include "report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "idistill/io/result_datasets.hpp"
#include "training.hpp"

namespace idistill::propagation {
namespace {

/// What decides how the run is judged: the pairs' network where there is one.
const Learnt& judged(const NetworkFit& fit) { return fit.pairs.epoch > 0 ? fit.pairs : fit.samples; }

std::string learning_line(const Learnt& learnt, const NetworkShape& shape, const std::string& of) {
    const auto epochs = std::ssize(learnt.error);
    const double held = learnt.held_error[static_cast<std::size_t>(learnt.epoch - 1)];
    const auto passes = passes_of(learnt.pairs);
    return fmt::format(
        "network of {}: {} parameters learnt from {} in {} epoch{}{}, that of epoch {} kept; error over "
        "variance: {:.3f} learnt, {}\n",
        of, shape.parameters(), learnt.pairs, epochs, epochs == 1 ? "" : "s",
        passes == 1 ? "" : fmt::format(" of {} passes", passes), learnt.epoch,
        learnt.error[static_cast<std::size_t>(learnt.epoch - 1)],
        std::isnan(held) ? "none held out" : fmt::format("{:.3f} held out", held));
}

std::string agreement_table(const NetworkFit& fit) {
    const auto& found = fit.agreement;
    const auto targets = fit.pairs.epoch == 0 ? std::string("none of which the network has seen")
                         : fit.held_targets > 0
                             ? fmt::format("{} held-out targets, none of which the network has seen", fit.held_targets)
                             : fmt::format("the {} targets, which are too few to hold any out", fit.targets);
    auto text = fmt::format("{} pairs of {} held-out samples and {}\n", found.pairs, fit.held_samples, targets);
    if (fit.pairs.epoch == 0) text = fmt::format("{} held-out samples, {}\n", fit.held_samples, targets);
    text += fmt::format("  {:<12}  {:>10} {:>7} {:>9}\n", "", "MSE", "R2", "Spearman");
    for (std::size_t i = 0; i < predictors.size(); ++i)
        if (!std::isnan(found.error[i]))
            text += fmt::format("  {:<12}  {:>10.4g} {:>7.3f} {:>9.3f}\n", predictors[i], found.error[i], found.r2[i],
                                found.spearman[i]);
    const double rest = std::max(found.r2[2], found.r2[3]);
    if (found.r2[0] <= found.r2[3])
        text += "warning: the network says no more of a pair than the mean of the sample's labels does.\n";
    else if (found.r2[0] <= rest)
        text += "note: a line in the cosine of the embeddings says as much as the network: --network-residual on.\n";
    return text;
}

io::ResultDatasets<NetworkFit> network_datasets(std::int64_t columns, std::int64_t tasks, std::int64_t epochs,
                                                const std::vector<std::string>& embeddings) {
    io::ResultDatasets<NetworkFit> made;
    for (const auto& [name, of] : trust_datasets)
        made.numbers<double>(
            name, of == &Trust::column_r2 ? columns : tasks, [of = of](const NetworkFit& fit) -> const auto& {
                return fit.trust.*of;
            });
    made.texts("/embedding/name", std::ssize(embeddings), io::longest_of(embeddings),
               [embeddings](const NetworkFit&) { return embeddings; });
    const std::vector<std::string> names(predictors.begin(), predictors.end());
    const auto count = std::ssize(names);
    made.texts("/network/held_out/predictor", count, io::longest_of(names),
               [names](const NetworkFit&) { return names; });
    made.numbers<double>(
        "/network/held_out/mse", count, [](const NetworkFit& fit) -> const auto& { return fit.agreement.error; });
    made.numbers<double>(
        "/network/held_out/r2", count, [](const NetworkFit& fit) -> const auto& { return fit.agreement.r2; });
    made.numbers<double>(
        "/network/held_out/spearman", count,
        [](const NetworkFit& fit) -> const auto& { return fit.agreement.spearman; });
    made.numbers<double>(
        "/network/epoch/error", epochs, [](const NetworkFit& fit) -> const auto& { return judged(fit).error; });
    made.numbers<double>(
        "/network/epoch/held_out_error", epochs,
        [](const NetworkFit& fit) -> const auto& { return judged(fit).held_error; });
    return made;
}

}  // namespace

std::string network_report(const NetworkFit& fit, const NetworkShapes& shapes, const NetworkCost& cost,
                           const std::vector<std::string>& tasks, double model_parameters) {
    std::string text;
    if (fit.pairs.epoch > 0) text += learning_line(fit.pairs, shapes.pairs, "pairs");
    if (fit.samples.epoch > 0) text += learning_line(fit.samples, shapes.samples, "samples alone");
    text +=
        fmt::format("together {:.3g} % of the {:.3g} parameters of the language model; learning took {:.1f} s\n",
                    100.0 * static_cast<double>(shapes.parameters()) / model_parameters, model_parameters, fit.seconds);
    const double spent = cost.labels + cost.learning + cost.prediction;
    text += fmt::format(
        "planned FLOPs: labels {:.3g}, learning {:.3g}, prediction {:.3g}: {:.1f} % of the {:.3g} "
        "of labelling every sample\n",
        cost.labels, cost.learning, cost.prediction, 100.0 * spent / cost.all_labels, cost.all_labels);
    if (fit.held_samples == 0)
        text += "warning: too few samples are labelled to hold any out: nothing says how well the network predicts.\n";
    else
        text += agreement_table(fit);
    text += fmt::format("trust by {} held-out samples on every target\n", fit.held_samples);
    return text + trust_report(fit.trust, tasks, "held-out", fit.held_samples > 1);
}

void plan_network(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, std::int64_t epochs,
                  const std::vector<std::string>& embeddings) {
    network_datasets(columns, tasks, epochs, embeddings).plan(plan);
}

void write_network(io::ResultWriter& writer, const NetworkFit& fit, const NetworkShapes& shapes, std::int64_t epochs,
                   const std::vector<std::string>& embeddings) {
    network_datasets(std::ssize(fit.trust.column_r2), std::ssize(fit.trust.task_r2), epochs, embeddings)
        .write(writer, fit);
    writer.attribute("embedding", fmt::format("{}", fmt::join(embeddings, "+")));
    writer.attribute("network_parameters", shapes.parameters());
    writer.attribute("network_epoch", judged(fit).epoch);
    writer.attribute("network_pairs", judged(fit).pairs);
    writer.attribute("network_passes", passes_of(judged(fit).pairs));
    writer.attribute("network_held_out_pairs", fit.agreement.pairs);
}

}  // namespace idistill::propagation
