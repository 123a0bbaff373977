// Stage 7, write: all ranks write their rows into OUT.partial, which then gets its final name.

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "datasets.hpp"
#include "idistill/base/finite.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/selection/task_means.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

using data::RowRange;

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

PoolRows pool_rows_of(const Run& run, const Labels* labels, const selection::TaskMeans& task_means, RowRange rows) {
    const auto& layout = run.inputs.influence->layout();
    const auto count = static_cast<std::size_t>(rows.count);
    const auto columns = run.columns.count();
    const auto tasks = static_cast<std::size_t>(run.inputs.usable.tasks);
    const auto& index = run.inputs.pool.index();
    const auto own = [&](const std::vector<std::int32_t>& all) {
        return std::span(all).subspan(static_cast<std::size_t>(rows.first), count);
    };
    constexpr auto unknown = std::numeric_limits<float>::quiet_NaN();
    PoolRows block{.influence = {},
                   .extras = {},
                   .score = std::vector<float>(count * tasks, unknown),
                   .exact = computed_rows(run, labels, rows),
                   .tokens = own(index.tokens),
                   .source = own(index.source),
                   .ids = run.inputs.pool.read_ids(rows),
                   .not_finite = {}};
    const auto products = work::unknown_rows(rows.count, columns + layout.products() - layout.columns);
    const auto logarithmic = work::unknown_rows(rows.count, layout.logarithms());
    read_products(run, products.size(1), rows, work::values(products));
    if (layout.logarithms() > 0) read_logarithmic(run, rows, work::values(logarithmic));
    std::vector<double> means(tasks);
    for (std::size_t i = 0; i < count; ++i) {
        const auto width = static_cast<std::size_t>(products.size(1));
        const auto values = work::values(products).subspan(i * width, width);
        if (all_finite(values)) {
            task_means(values.first(static_cast<std::size_t>(columns)), means);
            std::transform(means.begin(), means.end(), block.score.begin() + static_cast<std::ptrdiff_t>(i * tasks),
                           [](double mean) { return static_cast<float>(mean); });
            continue;
        }
        std::fill(values.begin(), values.end(), unknown);
        block.exact[i] = 0;
        const auto row = rows.first + static_cast<std::int64_t>(i);
        if (run.inputs.usable.is_eligible(row)) block.not_finite.push_back(row);
    }
    block.influence = work::copied(products.narrow(1, 0, columns));
    std::int64_t linear = columns, logarithm = 0;
    for (const auto& extra : layout.extras) {
        auto& place = extra.logarithmic ? logarithm : linear;
        block.extras.push_back(
            work::copied((extra.logarithmic ? logarithmic : products).narrow(1, place, extra.width)));
        place += extra.width;
    }
    return block;
}

/// Every rank's rows in one pass over the state, in blocks of bounded memory. Gives the not finite rows of all ranks.
std::vector<std::int64_t> write_pool_rows(const Run& run, io::ResultWriter& writer, const ResultShape& shape,
                                          const Labels* labels) {
    const auto datasets = pool_datasets(shape);
    datasets.create(writer);
    const selection::TaskMeans task_means(run.columns.task, static_cast<std::int32_t>(run.inputs.usable.tasks));
    const auto mine = data::shard_of(run.inputs.usable.pool_rows, run.work.comm.rank(), run.work.comm.size());
    const auto block_rows = rows_of_block(run.inputs.influence->layout().products());
    std::vector<std::int64_t> not_finite;
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        const auto block = pool_rows_of(run, labels, task_means, rows);
        datasets.fill(writer, rows, block);
        not_finite.insert(not_finite.end(), block.not_finite.begin(), block.not_finite.end());
    }
    std::vector<std::int64_t> all;
    for (const auto& part : run.work.comm.all_gather(std::span<const std::int64_t>(not_finite)))
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

/// What the plan left out and these rows, in order of rows.
std::vector<plan::Quarantined> with_not_finite(std::vector<plan::Quarantined> planned,
                                               const std::vector<std::int64_t>& not_finite) {
    for (const auto row : not_finite) planned.push_back({row, plan::QuarantineReason::non_finite});
    std::sort(planned.begin(), planned.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
    return planned;
}

/// Rank 0's timings on every rank: attributes are the same everywhere.
Timings agreed_timings(comm::Communicator& comm, Timings timings) {
    for (auto& [stage, seconds] : timings) comm.broadcast(std::span<double>(&seconds, 1));
    return timings;
}

}  // namespace

void write_result(const Run& run, const Results& results) {
    auto& comm = run.work.comm;
    const auto& [usable, pool, targets] = std::tie(run.inputs.usable, run.inputs.pool, run.inputs.targets());
    io::ResultWriter writer(comm, run.command.inputs().out);
    const ResultShape shape{run.command.values, run.inputs, pool.index(), targets.index(), run.columns.count()};
    const auto not_finite = write_pool_rows(run, writer, shape, results.labels);
    std::vector<std::int64_t> dropped;
    for (const auto place : run.columns.dropped) dropped.push_back(usable.target_rows[static_cast<std::size_t>(place)]);
    datasets_beside(shape).write(writer, {run, results.labels, with_not_finite(usable.pool_quarantine, not_finite),
                                          with_not_finite(usable.target_quarantine, dropped)});
    write_selection(comm, writer, results.selection, rated_pool(run));
    run.inputs.influence->write(writer, run.columns);
    if (run.inputs.propagation) run.inputs.propagation->write(writer);
    if (run.refinement != nullptr) {
        writer.attribute("refine_factor", run.refinement->times_budget);
        writer.attribute("refine_shortlist", std::ssize(run.refinement->rows));
        writer.attribute("refine_gain", results.refinement_gain);
    }
    writer.attribute("program", run.command.program);
    writer.attribute("settings", options::to_json(run.command.table, run.command.values));
    if (!run.model.sha256.empty()) writer.attribute("model_sha256", run.model.sha256);
    writer.attribute("pool_sha256", pool.index().content_sha256);
    writer.attribute("targets_sha256", targets.index().content_sha256);
    writer.attribute("ranks", static_cast<std::int64_t>(comm.size()));
    writer.attribute("units_recovered", run.work.state.units_recovered());
    for (const auto& [stage, seconds] : agreed_timings(comm, results.timings))
        writer.attribute("seconds_" + stage, seconds);
    writer.commit();
}

}  // namespace idistill::stages
