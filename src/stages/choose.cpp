#include "choose.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "idistill/config/plan.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::stages {

std::vector<double> fisher_curvature(double learning_rate, const ColumnFacts& columns) {
    std::vector<double> curvature;
    const auto count = static_cast<double>(columns.label_tokens.size());
    for (std::size_t t = 0; t < columns.label_tokens.size(); ++t) {
        const double norm = columns.cosine ? static_cast<double>(columns.gradient_norm[t]) : 1.0;
        curvature.push_back(learning_rate * static_cast<double>(columns.label_tokens[t]) * norm / count);
    }
    return curvature;
}

selection::Selection choose(const config::Settings& settings, comm::Communicator& comm,
                            const selection::Request& request, std::int64_t columns,
                            std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)> read,
                            const std::function<ColumnFacts()>& facts) {
    const auto rows = static_cast<std::int64_t>(request.eligible.size());
    if (settings.selection != "weighted") {
        const auto mine = data::shard_of(rows, comm.rank(), comm.size());
        return selection::select(comm, {mine.first, mine.count, columns, std::move(read)}, request);
    }
    selection::WeightedRequest weighted{settings.lambda, {}};
    if (settings.influence == "second-order")
        weighted.curvature = fisher_curvature(settings.learning_rate.value(), facts());
    const auto mine = selection::blocked_shard(rows, selection::weight_block_rows(rows), comm.rank(), comm.size());
    return selection::select_weighted(comm, {mine.first, mine.count, columns, std::move(read)}, request, weighted);
}

std::string weights_text(const config::Settings& settings, const selection::Selection& selection,
                         std::int64_t pool_rows) {
    if (!selection.report) return {};
    const auto& report = *selection.report;
    std::string text = fmt::format(
        "weights: {} samples, lambda {:.4g}, threshold {:.4g}, objective {:.6g} a sample, "
        "{} Newton steps",
        report.support, report.lambda, report.threshold, report.objective / static_cast<double>(pool_rows),
        report.iterations);
    const auto wanted = settings.select_percent ? config::selected_count(*settings.select_percent, pool_rows)
                                                : settings.select_samples.value_or(report.support);
    if (report.reachable != report.support)
        text += fmt::format("; {} was the smallest number met that is not below --select, cut to the largest weights",
                            report.reachable);
    else if (!settings.lambda && wanted != report.support)
        text += fmt::format("; {} would part samples of equal influence: the nearest number that does not", wanted);
    if (report.clipped > 0) text += fmt::format("; {} directions of negative curvature left out", report.clipped);
    return text;
}

void write_weight_report(io::ResultWriter& writer, const selection::Selection& selection) {
    if (!selection.report) {
        for (const char* name :
             {"lambda", "threshold", "objective", "gap", "support", "reachable", "iterations", "clipped"})
            writer.remove_attribute(std::string("weights_") + name);
        return;
    }
    const auto& report = *selection.report;
    writer.attribute("weights_lambda", report.lambda);
    writer.attribute("weights_threshold", report.threshold);
    writer.attribute("weights_objective", report.objective);
    writer.attribute("weights_gap", report.gap);
    writer.attribute("weights_support", report.support);
    writer.attribute("weights_reachable", report.reachable);
    writer.attribute("weights_iterations", report.iterations);
    writer.attribute("weights_clipped", report.clipped);
}

}  // namespace idistill::stages
