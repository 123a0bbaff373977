#include "choose.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "idistill/config/plan.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/report/error.hpp"
#include "idistill/selection/weight_limits.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::stages {
namespace {

/// --max-weight as a limit of weights that add up to N; infinite without.
double largest_weight(const config::Settings& settings, const selection::Request& request) {
    if (!settings.max_weight) return std::numeric_limits<double>::infinity();
    if (!settings.max_weight_of_mean) return *settings.max_weight;
    return *settings.max_weight * static_cast<double>(request.eligible.size()) /
           static_cast<double>(request.budget.samples.value());
}

}  // namespace

std::vector<double> fisher_curvature(const ColumnFacts& columns) {
    std::vector<double> curvature;
    const auto count = static_cast<double>(columns.label_tokens.size());
    for (std::size_t t = 0; t < columns.label_tokens.size(); ++t) {
        const double norm = columns.cosine ? static_cast<double>(columns.gradient_norm[t]) : 1.0;
        curvature.push_back(static_cast<double>(columns.label_tokens[t]) * norm / count);
    }
    return curvature;
}

std::vector<double> hessian_curvature(const std::vector<double>& value) {
    std::vector<double> curvature;
    curvature.reserve(value.size());
    for (const double mu : value) curvature.push_back(mu == 0.0 ? 0.0 : std::copysign(1.0, mu));
    return curvature;
}

selection::Selection choose(const config::Settings& settings, comm::Communicator& comm,
                            const selection::Request& request, const Influences& influences,
                            const std::vector<std::string>& source_names) {
    const auto rows = static_cast<std::int64_t>(request.eligible.size());
    if (settings.selection != "weighted") {
        const auto mine = data::shard_of(rows, comm.rank(), comm.size());
        return selection::select(comm, {mine.first, mine.count, influences.columns, influences.read}, request);
    }
    selection::WeightedRequest weighted{.lambda = settings.lambda,
                                        .curvature = {},
                                        .learning_rate = settings.learning_rate,
                                        .largest = largest_weight(settings, request),
                                        .source_share = config::source_shares(settings, source_names)};
    auto columns = influences.columns;
    auto read = influences.read;
    if (config::uses_hessian(settings)) {
        const auto facts = influences.hessian();
        weighted.curvature = hessian_curvature(facts.value);
        weighted.offset = facts.step_product;
        weighted.factor_columns = std::ssize(weighted.curvature);
        columns += weighted.factor_columns;
        read = influences.read_with_factor;
    } else if (settings.influence == "second-order") {
        const auto facts = influences.facts();
        weighted.curvature = fisher_curvature(facts);
        if (settings.learning_rate)  // one that is found stands for many steps, of which none has this constant part
            weighted.offset.assign(facts.step_product.begin(), facts.step_product.end());
    }
    const auto mine = selection::blocked_shard(rows, selection::weight_block_rows(rows), comm.rank(), comm.size());
    return selection::select_weighted(comm, {mine.first, mine.count, columns, std::move(read)}, request, weighted);
}

void check_weight_limits(const config::Settings& settings, const selection::Request& request,
                         const std::vector<std::string>& source_names) {
    if (settings.selection != "weighted" || (!settings.max_weight && settings.source_share.empty())) return;
    const auto shares = config::source_shares(settings, source_names);
    selection::WeightRoom room;
    room.total = static_cast<double>(request.eligible.size());
    room.largest = largest_weight(settings, request);
    std::vector<std::size_t> group(source_names.size(), shares.size());
    for (const auto& [source, share] : shares) {
        group[static_cast<std::size_t>(source)] = room.group_most.size();
        room.group_most.push_back(share * room.total);
    }
    room.rows.assign(shares.size() + 1, 0);
    for (std::size_t row = 0; row < request.eligible.size(); ++row)
        if (request.eligible[row] != 0) ++room.rows[group[static_cast<std::size_t>(request.source[row])]];
    std::size_t place = 0;
    for (const auto& [source, share] : shares)
        if (room.rows[place++] == 0)
            throw Error(ExitCode::usage, {"--source-share",
                                          {},
                                          "a source with eligible samples",
                                          fmt::format("none in '{}'", source_names[static_cast<std::size_t>(source)]),
                                          "Leave its share out."});
    selection::check_room(room, config::leaves_number_open(settings) ? std::nullopt : request.budget.samples);
}

std::string weights_text(const config::Settings& settings, const selection::Selection& selection,
                         std::int64_t pool_rows, const std::vector<std::string>& source_names) {
    if (!selection.report) return {};
    const auto& report = *selection.report;
    std::string text = fmt::format(
        "weights: {} samples, lambda {:.4g}, threshold {:.4g}, objective {:.6g} a sample, "
        "{} Newton steps",
        report.support, report.lambda, report.threshold, report.objective / static_cast<double>(pool_rows),
        report.iterations);
    if (report.learning_rate > 0.0)
        text += fmt::format("; learning rate {:.3g}", report.learning_rate);
    else if (settings.influence == "second-order" && !settings.learning_rate)
        text += "; of first order: no weights of second order gain more";
    const auto wanted = settings.select_percent ? config::selected_count(*settings.select_percent, pool_rows)
                                                : settings.select_samples.value_or(report.support);
    if (report.reachable != report.support)
        text += fmt::format("; {} was the smallest number met that is not below --select, cut to the largest weights",
                            report.reachable);
    else if (!settings.lambda && wanted != report.support)
        text += fmt::format("; {} would part samples of equal influence{}: the nearest number that does not", wanted,
                            settings.max_weight || !settings.source_share.empty() ? " or break a limit" : "");
    if (report.largest > 0) text += fmt::format("; {} at the largest weight", report.largest);
    for (std::size_t i = 0; i < report.full.size(); ++i)
        text += fmt::format("{}{}", i == 0 ? "; at their share: " : ", ",
                            source_names[static_cast<std::size_t>(report.full[i])]);
    if (report.clipped > 0) text += fmt::format("; {} directions of negative curvature left out", report.clipped);
    if (report.best_learning_rate < report.learning_rate)
        text += fmt::format(
            "\nwarning: a step of --learning-rate {:.3g} is longer than gains most along these weights, {:.3g}: "
            "further on, second order expects the target loss to rise again; use a smaller one{}",
            report.learning_rate, report.best_learning_rate, config::uses_hessian(settings) ? "" : " or auto");
    else if (settings.learning_rate && report.mean_influence < 0.0)  // where p itself is to blame, no step is best
        text += fmt::format(
            "\nwarning: these weights have a mean influence of {:.3g}: in a step of --learning-rate {:.3g} the "
            "constant part of the optimizer's step outweighs the samples'; use a smaller one{}",
            report.mean_influence, report.learning_rate, config::uses_hessian(settings) ? "" : " or auto");
    return text;
}

void write_weight_report(io::ResultWriter& writer, const selection::Selection& selection) {
    if (!selection.report) {
        for (const char* name : {"lambda", "threshold", "objective", "gap", "support", "reachable", "iterations",
                                 "clipped", "at_largest", "full_sources", "learning_rate"})
            writer.remove_attribute(std::string("weights_") + name);
        return;
    }
    const auto& report = *selection.report;
    writer.attribute("weights_lambda", report.lambda);
    writer.attribute("weights_learning_rate", report.learning_rate);
    writer.attribute("weights_threshold", report.threshold);
    writer.attribute("weights_objective", report.objective);
    writer.attribute("weights_gap", report.gap);
    writer.attribute("weights_support", report.support);
    writer.attribute("weights_reachable", report.reachable);
    writer.attribute("weights_iterations", report.iterations);
    writer.attribute("weights_clipped", report.clipped);
    writer.attribute("weights_at_largest", report.largest);
    writer.attribute("weights_full_sources", static_cast<std::int64_t>(report.full.size()));
}

}  // namespace idistill::stages
