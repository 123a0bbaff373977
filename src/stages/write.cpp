// Stage 7, write: all ranks write their rows into OUT.partial, which then gets its final name.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "choose.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/report/error.hpp"
#include "idistill/selection/task_means.hpp"
#include "result_rows.hpp"

namespace idistill::stages {
namespace {

using data::RowRange;

std::vector<float> floats(const torch::Tensor& tensor) {
    const auto values = tensor.contiguous();
    return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

/// What the result says of some consecutive rows of the pool.
struct PoolRows {
    std::vector<float> influence;          ///< (rows x C); all NaN in a row that is not finite
    std::vector<float> factor;             ///< (rows x r) of the curvature; likewise
    std::vector<float> score;              ///< (rows x tasks)
    std::vector<float> norm;               ///< (rows)
    std::vector<std::uint8_t> exact;       ///< (rows)
    std::vector<std::int64_t> not_finite;  ///< rows that the plan let through but whose influence is not finite
};

/// Marks rows whose influence was computed, not propagated; some of them may not be finite.
std::vector<std::uint8_t> computed_rows(const LandmarkLabels* landmarks, const Refinement* refinement, RowRange rows) {
    std::vector<std::uint8_t> computed(static_cast<std::size_t>(rows.count), landmarks == nullptr ? 1 : 0);
    if (landmarks == nullptr) return computed;
    const auto end = landmarks->place.lower_bound(rows.end());
    for (auto mark = landmarks->place.lower_bound(rows.first); mark != end; ++mark)
        computed[static_cast<std::size_t>(mark->first - rows.first)] = 1;
    if (refinement == nullptr) return computed;
    const auto refined = std::lower_bound(refinement->rows.begin(), refinement->rows.end(), rows.first);
    for (auto row = refined; row != refinement->rows.end() && *row < rows.end(); ++row)
        computed[static_cast<std::size_t>(*row - rows.first)] = 1;
    return computed;
}

PoolRows pool_rows_of(const Run& run, const Results& results, const selection::TaskMeans& task_means, RowRange rows) {
    const auto& plan = run.inputs.plan;
    const auto count = static_cast<std::size_t>(rows.count);
    const auto columns = static_cast<std::size_t>(results.targets.columns());
    const auto tasks = run.settings.targets.size();
    const auto products = static_cast<std::size_t>(results.targets.products());
    constexpr auto unknown = std::numeric_limits<float>::quiet_NaN();
    PoolRows block{std::vector<float>(count * columns),
                   std::vector<float>(count * (products - columns)),
                   std::vector<float>(count * tasks, unknown),
                   std::vector<float>(count),
                   computed_rows(results.landmarks, run.refinement, rows),
                   {}};
    std::vector<float> stored(count * products);
    read_influence(run, results.targets.products(), rows, stored);
    read_norm(run, rows, block.norm);
    std::vector<double> means(tasks);
    for (std::size_t i = 0; i < count; ++i) {
        const auto row_products = std::span(stored).subspan(i * products, products);
        const auto influence = std::span(block.influence).subspan(i * columns, columns);
        const auto factor = std::span(block.factor).subspan(i * (products - columns), products - columns);
        std::copy_n(row_products.begin(), columns, influence.begin());
        std::copy(row_products.begin() + static_cast<std::ptrdiff_t>(columns), row_products.end(), factor.begin());
        if (std::all_of(row_products.begin(), row_products.end(), [](float x) { return std::isfinite(x); })) {
            task_means(influence, means);
            std::transform(means.begin(), means.end(), block.score.begin() + static_cast<std::ptrdiff_t>(i * tasks),
                           [](double mean) { return static_cast<float>(mean); });
            continue;
        }
        std::fill(influence.begin(), influence.end(), unknown);
        std::fill(factor.begin(), factor.end(), unknown);
        block.exact[i] = 0;
        const auto row = rows.first + static_cast<std::int64_t>(i);
        if (plan.eligible[static_cast<std::size_t>(row)] != 0) block.not_finite.push_back(row);
    }
    return block;
}

/// Every rank's rows in one pass over the state, in blocks of bounded memory. Gives the not finite rows of all ranks.
std::vector<std::int64_t> write_pool_rows(const Run& run, io::ResultWriter& writer, const Results& results) {
    const auto& index = run.inputs.pool.index();
    const auto n = run.inputs.plan.pool_rows;
    const auto columns = results.targets.columns();
    const auto tasks = static_cast<std::int32_t>(run.settings.targets.size());
    writer.create<float>("/influence", n, columns);
    const auto rank = std::ssize(results.targets.curvature);
    if (rank > 0) writer.create<float>("/curvature/factor", n, rank);
    writer.create<float>("/score", n, tasks);
    writer.create<float>("/gradient_norm", n);
    writer.create<std::uint8_t>("/exact", n);
    writer.create<std::int32_t>("/tokens", n);
    writer.create<std::int32_t>("/source/index", n);
    writer.create_strings("/id", n, index.longest_id);
    const selection::TaskMeans task_means(results.targets.column_task, tasks);
    const auto mine = data::shard_of(n, run.comm.rank(), run.comm.size());
    constexpr std::int64_t block_numbers = std::int64_t{8} << 20;
    const auto block_rows = std::clamp<std::int64_t>(block_numbers / run.inputs.plan.stored_columns(), 1, 65536);
    std::vector<std::int64_t> not_finite;
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        const auto block = pool_rows_of(run, results, task_means, rows);
        const auto own = [&](const std::vector<std::int32_t>& all) {
            return std::span(all).subspan(static_cast<std::size_t>(rows.first), static_cast<std::size_t>(rows.count));
        };
        writer.write<float>("/influence", rows, block.influence);
        if (rank > 0) writer.write<float>("/curvature/factor", rows, block.factor);
        writer.write<float>("/score", rows, block.score);
        writer.write<float>("/gradient_norm", rows, block.norm);
        writer.write<std::uint8_t>("/exact", rows, block.exact);
        writer.write<std::int32_t>("/tokens", rows, own(index.tokens));
        writer.write<std::int32_t>("/source/index", rows, own(index.source));
        writer.write_strings("/id", rows.first, run.inputs.pool.read_ids(rows));
        not_finite.insert(not_finite.end(), block.not_finite.begin(), block.not_finite.end());
    }
    std::vector<std::int64_t> all;
    for (const auto& part : run.comm.all_gather(std::span<const std::int64_t>(not_finite)))
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

void write_quarantined(io::ResultWriter& writer, const std::string& group, std::vector<config::Quarantined> rows) {
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
    std::vector<std::int64_t> index;
    std::vector<std::string> reason;
    for (const auto& entry : rows) {
        index.push_back(entry.row);
        reason.push_back(config::to_string(entry.reason));
    }
    writer.small<std::int64_t>(group + "/index", index);
    writer.strings(group + "/reason", reason);
}

void write_quarantine(const Run& run, io::ResultWriter& writer, const TargetLabels& targets,
                      const std::vector<std::int64_t>& not_finite) {
    const auto& plan = run.inputs.plan;
    auto rows = plan.pool_quarantine;
    for (const auto row : not_finite) rows.push_back({row, config::QuarantineReason::non_finite});
    write_quarantined(writer, "/quarantine", std::move(rows));
    auto target_rows = plan.target_quarantine;
    for (const auto place : targets.dropped)
        target_rows.push_back(
            {plan.target_rows[static_cast<std::size_t>(place)], config::QuarantineReason::non_finite});
    write_quarantined(writer, "/target_quarantine", std::move(target_rows));
}

/// What --landmarks auto saw while it added landmarks.
void write_growth(io::ResultWriter& writer, const std::vector<LandmarkTrial>& trials) {
    std::vector<std::int64_t> landmarks;
    std::vector<double> r2, r2_within_source, spearman;
    for (const auto& trial : trials) {
        landmarks.push_back(trial.landmarks);
        r2.push_back(trial.r2);
        r2_within_source.push_back(trial.r2_within_source);
        spearman.push_back(trial.spearman);
    }
    writer.small<std::int64_t>("/landmark/growth/landmarks", landmarks);
    writer.small<double>("/landmark/growth/loo_r2", r2);
    writer.small<double>("/landmark/growth/loo_r2_within_source", r2_within_source);
    writer.small<double>("/landmark/growth/loo_spearman", spearman);
}

/// The embeddings in use, and what --embedding auto compared.
void write_embeddings(const Run& run, io::ResultWriter& writer, const Propagation& propagation) {
    const auto parts = config::embedding_parts(run.settings);
    std::vector<std::string> names;
    for (const auto place : propagation.embeddings) names.push_back(parts[place].name);
    writer.attribute("embedding", config::joined_name(parts, propagation.embeddings));
    writer.attribute("bandwidth", propagation.solution.embedding_bandwidths.front());
    writer.attribute("kernel", std::string(propagation.solution.kernel.product ? "product" : "sum"));
    writer.strings("/embedding/name", names);
    writer.small<double>("/embedding/bandwidth", propagation.solution.embedding_bandwidths);
    if (propagation.trials.empty()) return;
    std::vector<std::string> candidates;
    for (const auto& candidate : config::embedding_candidates(run.settings))
        candidates.push_back(config::joined_name(parts, candidate));
    writer.strings("/embedding/candidate/name", candidates);
    const auto write = [&](const std::string& name, double EmbeddingTrial::*member) {
        std::vector<double> values;
        for (const auto& trial : propagation.trials) values.push_back(trial.*member);
        writer.small<double>("/embedding/candidate/" + name, values);
    };
    write("loo_r2_within_source", &EmbeddingTrial::r2_within_source);
    write("loo_r2", &EmbeddingTrial::r2);
    write("loo_spearman", &EmbeddingTrial::spearman);
    write("loo_error", &EmbeddingTrial::error);
    write("cost", &EmbeddingTrial::cost);
}

void write_columns(const Run& run, io::ResultWriter& writer, const Results& results) {
    std::vector<std::string> tasks;
    for (const auto& target : run.settings.targets) tasks.push_back(target.name);
    std::vector<std::string> names = tasks;
    if (run.settings.columns == "samples") {
        names.clear();
        for (const auto place : results.targets.kept) {
            const auto row = run.inputs.plan.target_rows[static_cast<std::size_t>(place)];
            names.push_back(run.inputs.targets.read_ids({row, 1}).front());
        }
    }
    writer.strings("/column/name", names);
    writer.small<std::int32_t>("/column/task", results.targets.column_task);
    writer.small<std::int32_t>("/column/label_tokens", results.targets.label_tokens);
    writer.small<float>("/column/gradient_norm", results.targets.norm);
    writer.strings("/task/name", tasks);
    if (!results.targets.step_product.empty())
        writer.small<float>("/column/step_product", results.targets.step_product);
    if (!results.targets.curvature.empty()) writer.small<double>("/curvature/value", results.targets.curvature);
    if (!results.targets.curvature_step.empty())
        writer.small<double>("/curvature/step_product", results.targets.curvature_step);
    if (results.propagation == nullptr) return;
    const auto& trust = results.propagation->trust;
    writer.small<double>("/column/loo_r2", trust.column_r2);
    writer.small<double>("/task/loo_r2", trust.task_r2);
    writer.small<double>("/task/loo_r2_within_source", trust.task_r2_within_source);
    writer.small<double>("/task/loo_spearman", trust.task_spearman);
    writer.small<double>("/task/loo_r2_source_only", trust.task_r2_source_only);
    writer.small<double>("/task/loo_spearman_source_only", trust.task_spearman_source_only);
    writer.small<std::int64_t>("/landmark/index", results.landmarks->rows);
    if (run.settings.landmarks_auto) write_growth(writer, results.landmarks->trials);
    writer.small<float>("/landmark/influence", floats(results.landmarks->influence), results.targets.columns());
    writer.small<float>("/landmark/loo", floats(results.propagation->leave_one_out), results.targets.columns());
    writer.attribute("damping", results.propagation->solution.damping);
    writer.attribute("intercept", static_cast<std::int64_t>(results.propagation->solution.has_intercept));
    write_embeddings(run, writer, *results.propagation);
    if (run.refinement == nullptr) return;
    writer.attribute("refine_factor", run.refinement->factor);
    writer.attribute("refine_shortlist", std::ssize(run.refinement->rows));
    writer.attribute("refine_gain", results.refinement_gain);
}

/// The picks' weights with sum `total`: those of the selection, or equal ones.
std::vector<float> weights_of(const selection::Selection& selection, std::int64_t pool_rows, double total) {
    const double share = total / static_cast<double>(pool_rows);
    std::vector<float> weights;
    for (const double weight : selection.weight) weights.push_back(static_cast<float>(weight * share));
    if (weights.empty())
        weights.assign(selection.picks.size(), static_cast<float>(total / static_cast<double>(selection.picks.size())));
    return weights;
}

void write_weights(io::ResultWriter& writer, const selection::Selection& selection, std::int64_t pool_rows,
                   RowRange mine) {
    const auto weight = weights_of(selection, pool_rows, static_cast<double>(pool_rows));
    std::vector<std::pair<std::int64_t, float>> chosen;
    for (std::size_t i = 0; i < weight.size(); ++i)
        if (const auto row = selection.picks[i].row; row >= mine.first && row < mine.end())
            chosen.emplace_back(row, weight[i]);
    std::sort(chosen.begin(), chosen.end());
    writer.create<float>("/weight", pool_rows);
    constexpr std::int64_t block_rows = std::int64_t{1} << 20;
    auto next = chosen.begin();
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        std::vector<float> weights(static_cast<std::size_t>(rows.count), 0.0F);
        for (; next != chosen.end() && next->first < rows.end(); ++next)
            weights[static_cast<std::size_t>(next->first - rows.first)] = next->second;
        writer.write<float>("/weight", rows, weights);
    }
}

/// Ids of the picks, in their order, on every rank: each reads those among its rows in the order of the file, and the
/// ranks' rows follow each other.
std::vector<std::string> ids_of(comm::Communicator& comm, const std::vector<selection::Pick>& picks, RowRange mine,
                                const ReadIds& read_ids) {
    std::vector<std::size_t> by_row(picks.size());
    std::iota(by_row.begin(), by_row.end(), std::size_t{0});
    std::sort(by_row.begin(), by_row.end(), [&](std::size_t a, std::size_t b) { return picks[a].row < picks[b].row; });
    std::string text;
    for (const auto i : by_row) {
        if (picks[i].row < mine.first || picks[i].row >= mine.end()) continue;
        const auto id = read_ids({picks[i].row, 1}).front();
        text.append(id.c_str(), id.size() + 1);
    }
    std::vector<std::string> ids(picks.size());
    auto pick = by_row.begin();
    for (const auto& part : comm.all_gather<char>(text)) {
        for (auto begin = part.begin(); begin != part.end();) {
            const auto end = std::find(begin, part.end(), '\0');
            ids[*pick++].assign(begin, end);
            begin = end + 1;
        }
    }
    return ids;
}

/// Rank 0's timings on every rank: attributes are the same everywhere.
Timings agreed_timings(comm::Communicator& comm, Timings timings) {
    for (auto& [stage, seconds] : timings) comm.broadcast(std::span<double>(&seconds, 1));
    return timings;
}

}  // namespace

void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     std::int64_t pool_rows, const ReadIds& read_ids) {
    const auto mine = data::shard_of(pool_rows, comm.rank(), comm.size());
    write_weights(writer, selection, pool_rows, mine);
    std::vector<std::int64_t> index;
    std::vector<std::int32_t> column;
    for (const auto& pick : selection.picks) {
        index.push_back(pick.row);
        column.push_back(pick.column);
    }
    writer.small<std::int64_t>("/selected/index", index);
    writer.strings("/selected/id", ids_of(comm, selection.picks, mine, read_ids));
    writer.small<float>("/selected/weight", weights_of(selection, pool_rows, static_cast<double>(index.size())));
    writer.small<std::int32_t>("/selected/column", column);
    writer.attribute("selected_tokens", selection.tokens);
    write_weight_report(writer, selection);
}

void check_output_is_free(const config::Settings& settings, comm::Communicator& comm) {
    if (!comm.is_root()) return;
    if (std::filesystem::is_directory(settings.out))
        throw Error(ExitCode::usage,
                    {"--out", {}, "the name of a file", "the directory " + settings.out, "Add a name to it."});
    const bool writes = settings.command != config::Command::plan;
    if (writes && !settings.overwrite && std::filesystem::exists(settings.out))
        throw Error(ExitCode::result_exists, {settings.out, "", "no file of this name", "a finished result",
                                              "Choose another --out, or give --overwrite."});
}

void write_result(const Run& run, const Results& results) {
    io::ResultWriter writer(run.comm, run.settings.out);
    const auto not_finite = write_pool_rows(run, writer, results);
    writer.strings("/source/name", run.inputs.pool.index().source_names);
    write_selection(run.comm, writer, results.selection, run.inputs.plan.pool_rows,
                    [&](RowRange rows) { return run.inputs.pool.read_ids(rows); });
    write_columns(run, writer, results);
    writer.small<std::int64_t>("/contrast/index", results.targets.contrast);
    write_quarantine(run, writer, results.targets, not_finite);
    writer.attribute("program", results.program);
    writer.attribute("settings", config::to_json(run.settings));
    writer.attribute("model_sha256", run.model.sha256);
    if (!run.model.optimizer.sha256.empty()) writer.attribute("optimizer_sha256", run.model.optimizer.sha256);
    writer.attribute("pool_sha256", run.inputs.pool.index().content_sha256);
    writer.attribute("targets_sha256", run.inputs.targets.index().content_sha256);
    writer.attribute("loss", std::string("mean cross entropy over the label tokens of a sample"));
    writer.attribute("ranks", static_cast<std::int64_t>(run.comm.size()));
    writer.attribute("units_recovered", run.state.units_recovered());
    for (const auto& [stage, seconds] : agreed_timings(run.comm, results.timings))
        writer.attribute("seconds_" + stage, seconds);
    writer.commit();
}

}  // namespace idistill::stages
