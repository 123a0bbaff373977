// Stage 7, write: all ranks write their rows into OUT.partial, which then gets its final name.

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "idistill/base/finite.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/task_means.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

using data::RowRange;

std::vector<float> floats(const torch::Tensor& tensor) {
    const auto values = tensor.contiguous();
    return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

/// What the result says of some consecutive rows of the pool.
struct PoolRows {
    std::vector<float> influence;            ///< (rows x C); all NaN in a row that is not finite
    std::vector<std::vector<float>> extras;  ///< (rows x width) of every extra of the layout; linear ones likewise
    std::vector<float> score;                ///< (rows x tasks)
    std::vector<std::uint8_t> exact;         ///< (rows)
    std::vector<std::int64_t> not_finite;    ///< rows that the plan let through but whose influence is not finite
};

/// Marks rows whose influence was computed, not propagated; some of them may not be finite.
std::vector<std::uint8_t> computed_rows(const Run& run, const Labels* labels, RowRange rows) {
    std::vector<std::uint8_t> computed(static_cast<std::size_t>(rows.count), labels == nullptr ? 1 : 0);
    if (labels == nullptr) return computed;
    for (const auto row : labels->landmarks.rows)
        if (row >= rows.first && row < rows.end()) computed[static_cast<std::size_t>(row - rows.first)] = 1;
    if (run.refinement == nullptr) return computed;
    const auto& all = run.refinement->rows;
    for (auto row = std::lower_bound(all.begin(), all.end(), rows.first); row != all.end() && *row < rows.end(); ++row)
        computed[static_cast<std::size_t>(*row - rows.first)] = 1;
    return computed;
}

/// Columns [first, first + width) of rows of `stride` numbers.
std::vector<float> columns_of(const std::vector<float>& rows, std::size_t stride, std::size_t first,
                              std::size_t width) {
    std::vector<float> part;
    part.reserve(rows.size() / stride * width);
    for (std::size_t row = first; row < rows.size(); row += stride)
        part.insert(part.end(), rows.begin() + static_cast<std::ptrdiff_t>(row),
                    rows.begin() + static_cast<std::ptrdiff_t>(row + width));
    return part;
}

PoolRows pool_rows_of(const Run& run, const Labels* labels, const selection::TaskMeans& task_means, RowRange rows) {
    const auto& layout = run.inputs.influence->layout();
    const auto count = static_cast<std::size_t>(rows.count);
    const auto columns = static_cast<std::size_t>(run.columns.count());
    const auto tasks = static_cast<std::size_t>(run.inputs.usable.tasks);
    const auto products = static_cast<std::size_t>(run.columns.count() + layout.products() - layout.columns);
    const auto logarithms = static_cast<std::size_t>(layout.logarithms());
    constexpr auto unknown = std::numeric_limits<float>::quiet_NaN();
    PoolRows block{{}, {}, std::vector<float>(count * tasks, unknown), computed_rows(run, labels, rows), {}};
    std::vector<float> stored(count * products), logarithmic(count * logarithms);
    read_products(run, static_cast<std::int64_t>(products), rows, stored);
    if (logarithms > 0) read_logarithmic(run, rows, logarithmic);
    std::vector<double> means(tasks);
    for (std::size_t i = 0; i < count; ++i) {
        const auto own = std::span(stored).subspan(i * products, products);
        if (all_finite(own)) {
            task_means(own.first(columns), means);
            std::transform(means.begin(), means.end(), block.score.begin() + static_cast<std::ptrdiff_t>(i * tasks),
                           [](double mean) { return static_cast<float>(mean); });
            continue;
        }
        std::fill(own.begin(), own.end(), unknown);
        block.exact[i] = 0;
        const auto row = rows.first + static_cast<std::int64_t>(i);
        if (run.inputs.usable.is_eligible(row)) block.not_finite.push_back(row);
    }
    block.influence = columns_of(stored, products, 0, columns);
    std::size_t linear = columns, logarithm = 0;
    for (const auto& extra : layout.extras) {
        const auto width = static_cast<std::size_t>(extra.width);
        auto& place = extra.logarithmic ? logarithm : linear;
        block.extras.push_back(extra.logarithmic ? columns_of(logarithmic, logarithms, place, width)
                                                 : columns_of(stored, products, place, width));
        place += width;
    }
    return block;
}

/// Every rank's rows in one pass over the state, in blocks of bounded memory. Gives the not finite rows of all ranks.
std::vector<std::int64_t> write_pool_rows(const Run& run, io::ResultWriter& writer, const Labels* labels) {
    const auto& index = run.inputs.pool.index();
    const auto& layout = run.inputs.influence->layout();
    const auto n = run.inputs.usable.pool_rows;
    const auto tasks = static_cast<std::int32_t>(run.inputs.usable.tasks);
    writer.create<float>("/influence", n, run.columns.count());
    for (const auto& extra : layout.extras)
        writer.create<float>(extra.dataset, n, extra.logarithmic && extra.width == 1 ? 0 : extra.width);
    writer.create<float>("/score", n, tasks);
    writer.create<std::uint8_t>("/exact", n);
    writer.create<std::int32_t>("/tokens", n);
    writer.create<std::int32_t>("/source/index", n);
    writer.create_strings("/id", n, index.longest_id);
    const selection::TaskMeans task_means(run.columns.task, tasks);
    const auto mine = data::shard_of(n, run.work.comm.rank(), run.work.comm.size());
    const auto block_rows = rows_of_block(layout.products());
    std::vector<std::int64_t> not_finite;
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        const auto block = pool_rows_of(run, labels, task_means, rows);
        const auto own = [&](const std::vector<std::int32_t>& all) {
            return std::span(all).subspan(static_cast<std::size_t>(rows.first), static_cast<std::size_t>(rows.count));
        };
        writer.write<float>("/influence", rows, block.influence);
        for (std::size_t i = 0; i < layout.extras.size(); ++i)
            writer.write<float>(layout.extras[i].dataset, rows, block.extras[i]);
        writer.write<float>("/score", rows, block.score);
        writer.write<std::uint8_t>("/exact", rows, block.exact);
        writer.write<std::int32_t>("/tokens", rows, own(index.tokens));
        writer.write<std::int32_t>("/source/index", rows, own(index.source));
        writer.write_strings("/id", rows.first, run.inputs.pool.read_ids(rows));
        not_finite.insert(not_finite.end(), block.not_finite.begin(), block.not_finite.end());
    }
    std::vector<std::int64_t> all;
    for (const auto& part : run.work.comm.all_gather(std::span<const std::int64_t>(not_finite)))
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

void write_quarantined(io::ResultWriter& writer, const std::string& group, std::vector<plan::Quarantined> rows) {
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
    std::vector<std::int64_t> index;
    std::vector<std::string> reason;
    for (const auto& entry : rows) {
        index.push_back(entry.row);
        reason.push_back(plan::to_string(entry.reason));
    }
    writer.small<std::int64_t>(group + "/index", index);
    writer.strings(group + "/reason", reason);
}

void write_quarantine(const Run& run, io::ResultWriter& writer, const std::vector<std::int64_t>& not_finite) {
    const auto& usable = run.inputs.usable;
    auto rows = usable.pool_quarantine;
    for (const auto row : not_finite) rows.push_back({row, plan::QuarantineReason::non_finite});
    write_quarantined(writer, "/quarantine", std::move(rows));
    auto target_rows = usable.target_quarantine;
    for (const auto place : run.columns.dropped)
        target_rows.push_back(
            {usable.target_rows[static_cast<std::size_t>(place)], plan::QuarantineReason::non_finite});
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

void write_columns(const Run& run, io::ResultWriter& writer) {
    const auto tasks = tasks_of(run).names;
    auto names = tasks;
    if (run.command.inputs().columns == options::ColumnKind::samples) {
        names.clear();
        for (const auto place : run.columns.kept) {
            const auto row = run.inputs.usable.target_rows[static_cast<std::size_t>(place)];
            names.push_back(run.inputs.targets.read_ids({row, 1}).front());
        }
    }
    writer.strings("/column/name", names);
    writer.small<std::int32_t>("/column/task", run.columns.task);
    writer.strings("/task/name", tasks);
}

void write_propagation(const Run& run, io::ResultWriter& writer, const Results& results) {
    const auto columns = run.columns.count();
    const auto& landmarks = results.labels->landmarks;
    writer.small<std::int64_t>("/landmark/index", landmarks.rows);
    if (run.command.values.of<propagation::PropagationSettings>().landmarks_auto)
        write_growth(writer, results.labels->trials);
    writer.small<float>("/landmark/influence", floats(landmarks.labels.products.narrow(1, 0, columns)), columns);
    writer.small<float>("/landmark/loo", floats(run.inputs.propagation->leave_one_out()), columns);
    run.inputs.propagation->write(writer);
    if (run.refinement == nullptr) return;
    writer.attribute("refine_factor", run.refinement->factor);
    writer.attribute("refine_shortlist", std::ssize(run.refinement->rows));
    writer.attribute("refine_gain", results.refinement_gain);
}

/// Rank 0's timings on every rank: attributes are the same everywhere.
Timings agreed_timings(comm::Communicator& comm, Timings timings) {
    for (auto& [stage, seconds] : timings) comm.broadcast(std::span<double>(&seconds, 1));
    return timings;
}

double longest(const std::vector<std::string>& texts) {
    std::size_t most = 0;
    for (const auto& text : texts) most = std::max(most, text.size());
    return static_cast<double>(most);
}

void plan_quarantine(plan::Plan& plan, const std::string& group, const std::vector<plan::Quarantined>& rows) {
    std::vector<std::string> reasons;
    for (const auto& row : rows) reasons.push_back(plan::to_string(row.reason));
    plan.result.push_back({group + "/index", std::ssize(rows), 8.0});
    plan.result.push_back({group + "/reason", std::ssize(rows), longest(reasons)});
}

void plan_growth(plan::Plan& plan, std::int64_t counts) {
    for (const char* name : {"landmarks", "loo_r2", "loo_r2_within_source", "loo_spearman"})
        plan.result.push_back({std::string("/landmark/growth/") + name, counts, 8.0});
}

}  // namespace

void plan_result(const options::Values& values, const model::Planner& planner, RunPlan& run, std::int64_t selected) {
    auto& result = planner.plan.result;
    const auto& layout = run.influence->layout();
    const auto rows = run.usable.pool_rows, columns = layout.columns, tasks = run.usable.tasks;
    result.push_back({"/influence", rows, 4.0 * static_cast<double>(columns)});
    for (const auto& extra : layout.extras)
        result.push_back({extra.dataset, rows, 4.0 * static_cast<double>(extra.width)});
    result.push_back({"/score", rows, 4.0 * static_cast<double>(tasks)});
    result.push_back({"/exact", rows, 1.0});
    result.push_back({"/tokens", rows, 4.0});
    result.push_back({"/source/index", rows, 4.0});
    result.push_back({"/source/name", std::ssize(planner.pool.source_names), longest(planner.pool.source_names)});
    plan_selection(planner.plan, rows, selected, planner.pool.longest_id);
    std::vector<std::string> names;
    for (const auto& target : values.of<options::InputSettings>().targets) names.push_back(target.name);
    const bool by_task = values.of<options::InputSettings>().columns == options::ColumnKind::tasks;
    result.push_back(
        {"/column/name", columns, by_task ? longest(names) : static_cast<double>(planner.targets.longest_id)});
    result.push_back({"/column/task", columns, 4.0});
    result.push_back({"/task/name", tasks, longest(names)});
    if (run.propagation) {
        const auto landmarks = std::ssize(run.exact.landmarks);
        result.push_back({"/landmark/index", landmarks, 8.0});
        result.push_back({"/landmark/influence", landmarks, 4.0 * static_cast<double>(columns)});
        result.push_back({"/landmark/loo", landmarks, 4.0 * static_cast<double>(columns)});
        if (values.of<propagation::PropagationSettings>().landmarks_auto)
            plan_growth(planner.plan, std::ssize(run.exact.landmark_counts));
    }
    plan_quarantine(planner.plan, "/quarantine", run.usable.pool_quarantine);
    plan_quarantine(planner.plan, "/target_quarantine", run.usable.target_quarantine);
    // A block of rows as read, as written, its scores and what stands beside.
    const auto block = static_cast<double>(std::min(rows, rows_of_block(layout.products())));
    planner.plan.needs.push_back({.what = "rows on their way into the result",
                                  .per_rank = 4.0 * block * static_cast<double>(2 * layout.fitted() + tasks + 3),
                                  .during = {plan::write_step}});
}

void write_result(const Run& run, const Results& results) {
    auto& comm = run.work.comm;
    io::ResultWriter writer(comm, run.command.inputs().out);
    const auto not_finite = write_pool_rows(run, writer, results.labels);
    writer.strings("/source/name", run.inputs.pool.index().source_names);
    write_selection(comm, writer, results.selection, rated_pool(run));
    write_columns(run, writer);
    run.inputs.influence->write(writer, run.columns);
    if (results.labels != nullptr) write_propagation(run, writer, results);
    write_quarantine(run, writer, not_finite);
    writer.attribute("program", run.command.program);
    writer.attribute("settings", options::to_json(run.command.table, run.command.values));
    writer.attribute("model_sha256", run.model.sha256);
    writer.attribute("pool_sha256", run.inputs.pool.index().content_sha256);
    writer.attribute("targets_sha256", run.inputs.targets.index().content_sha256);
    writer.attribute("ranks", static_cast<std::int64_t>(comm.size()));
    writer.attribute("units_recovered", run.work.state.units_recovered());
    for (const auto& [stage, seconds] : agreed_timings(comm, results.timings))
        writer.attribute("seconds_" + stage, seconds);
    writer.commit();
}

}  // namespace idistill::stages
