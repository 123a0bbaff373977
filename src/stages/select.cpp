// Stage 6, select: all ranks on their rows of influence; the selection is the same on every rank.

#include <algorithm>

#include "choose.hpp"
#include "result_rows.hpp"

namespace idistill::stages {
namespace {

selection::Rule rule_of(const std::string& name) {
    if (name == "top-k" || name == "weighted") return selection::Rule::top_k;  // what a shortlist for weights takes
    if (name == "random") return selection::Rule::random;
    return selection::Rule::round_robin;
}

}  // namespace

selection::Request selection_request(const config::Settings& settings, const std::vector<std::string>& source_names,
                                     std::int64_t pool_rows) {
    selection::Request request;
    request.rule = rule_of(settings.selection);
    request.budget = {settings.select_samples, settings.select_tokens};
    if (settings.select_percent) request.budget.samples = config::selected_count(*settings.select_percent, pool_rows);
    request.seed = settings.seed;
    request.top_k_by_maximum = settings.top_k_by == "max";
    request.source_cap = config::source_caps(settings, source_names);
    return request;
}

void read_influence(const io::StateFile& state, std::int64_t stored_columns, std::int64_t columns, data::RowRange rows,
                    std::span<float> out) {
    if (columns == stored_columns) {
        state.read(pool_rows, 1, rows, out);
        return;
    }
    std::vector<float> stored(static_cast<std::size_t>(rows.count * stored_columns));
    state.read(pool_rows, 1, rows, stored);
    for (std::int64_t r = 0; r < rows.count; ++r)
        std::copy_n(stored.begin() + r * stored_columns, columns, out.begin() + r * columns);
}

selection::Request pool_request(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto& index = run.inputs.pool.index();
    auto request = selection_request(run.settings, index.source_names, plan.pool_rows);
    const bool weighted = run.settings.selection == "weighted";
    request.column_task = weighted ? std::vector<std::int32_t>(targets.column_task.size(), 0) : targets.column_task;
    request.tasks = weighted ? 1 : static_cast<std::int32_t>(run.settings.targets.size());
    request.eligible = plan.eligible;
    request.tokens = index.tokens;
    request.source = index.source;
    return request;
}

selection::Selection selection_of(const Run& run, const TargetLabels& targets, const selection::Request& request) {
    const auto reading = [&run](std::int64_t columns) {
        return [&run, columns](std::int64_t first, std::int64_t count, std::span<float> out) {
            read_influence(run, columns, {first, count}, out);
        };
    };
    return choose(run.settings, run.comm, request,
                  {targets.columns(), reading(targets.columns()),
                   [&] {
                       return ColumnFacts{targets.label_tokens, targets.norm, targets.step_product,
                                          run.settings.normalize == "cosine"};
                   },
                   [&] {
                       return HessianFacts{targets.curvature, targets.curvature_step};
                   },
                   reading(targets.products())},
                  run.inputs.pool.index().source_names);
}

selection::Selection select(const Run& run, const TargetLabels& targets) {
    const auto& sources = run.inputs.pool.index().source_names;
    const auto selection = selection_of(run, targets, pool_request(run, targets));
    if (selection.report) say(run.comm, weights_text(run.settings, selection, run.inputs.plan.pool_rows, sources));
    return selection;
}

}  // namespace idistill::stages
