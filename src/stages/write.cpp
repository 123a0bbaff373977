// Stage 7, write: all ranks write their rows into OUT.partial, which then gets its final name.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "idistill/data/work_unit.hpp"
#include "idistill/report/error.hpp"
#include "result_rows.hpp"

namespace idistill::stages {
namespace {

using data::RowRange;

std::vector<float> floats(const torch::Tensor& tensor) {
    const auto values = tensor.contiguous();
    return {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()};
}

/// Mean over each task's columns, in fp64, in column order.
void task_means(std::span<const float> influence, const std::vector<std::int32_t>& column_task, std::size_t tasks,
                std::span<float> out) {
    const auto columns = column_task.size();
    std::vector<double> members(tasks, 0.0);
    for (const auto task : column_task) members[static_cast<std::size_t>(task)] += 1.0;
    std::vector<double> sum(tasks);
    for (std::size_t row = 0; row * columns < influence.size(); ++row) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (std::size_t c = 0; c < columns; ++c)
            sum[static_cast<std::size_t>(column_task[c])] += influence[row * columns + c];
        for (std::size_t task = 0; task < tasks; ++task)
            out[row * tasks + task] = static_cast<float>(sum[task] / members[task]);
    }
}

void write_pool_rows(const Run& run, io::ResultWriter& writer, const Results& results) {
    const auto& plan = run.inputs.plan;
    const auto& index = run.inputs.pool.index();
    const auto n = plan.pool_rows;
    const auto columns = results.targets.columns();
    const auto tasks = static_cast<std::int64_t>(run.settings.targets.size());
    const auto mine = data::shard_of(n, run.comm.rank(), run.comm.size());
    const auto influence = [&](RowRange rows, std::span<float> out) {
        read_influence(run.state, plan.columns, columns, rows, out);
    };
    writer.rows<float>("/influence", n, columns, mine, influence);
    writer.rows<float>("/score", n, tasks, mine, [&](RowRange rows, std::span<float> out) {
        std::vector<float> block(static_cast<std::size_t>(rows.count * columns));
        influence(rows, block);
        task_means(block, results.targets.column_task, static_cast<std::size_t>(tasks), out);
    });
    writer.rows<float>("/gradient_norm", n, 0, mine,
                       [&](RowRange rows, std::span<float> out) { run.state.read(pool_rows, 0, rows, out); });
    writer.rows<std::uint8_t>("/exact", n, 0, mine, [&](RowRange rows, std::span<std::uint8_t> out) {
        std::vector<float> block(static_cast<std::size_t>(rows.count * columns));
        influence(rows, block);
        for (std::int64_t i = 0; i < rows.count; ++i) {
            const bool computed = results.landmarks == nullptr || results.landmarks->place.contains(rows.first + i);
            out[static_cast<std::size_t>(i)] =
                computed && std::isfinite(block[static_cast<std::size_t>(i * columns)]) ? 1 : 0;
        }
    });
    writer.rows<std::int32_t>("/tokens", n, 0, mine, [&](RowRange rows, std::span<std::int32_t> out) {
        std::copy_n(index.tokens.begin() + rows.first, rows.count, out.begin());
    });
    writer.rows<std::int32_t>("/source/index", n, 0, mine, [&](RowRange rows, std::span<std::int32_t> out) {
        std::copy_n(index.source.begin() + rows.first, rows.count, out.begin());
    });
    writer.strings("/source/name", index.source_names);
    writer.row_strings("/id", n, mine, [&](RowRange rows) { return run.inputs.pool.read_ids(rows); });
}

/// Rows that the plan let through but whose influence is not finite, over all ranks.
std::vector<std::int64_t> non_finite_rows(const Run& run, std::int64_t columns) {
    const auto& plan = run.inputs.plan;
    const auto mine = data::shard_of(plan.pool_rows, run.comm.rank(), run.comm.size());
    constexpr std::int64_t block_rows = 65536;
    std::vector<std::int64_t> found;
    for (auto first = mine.first; first < mine.end(); first += block_rows) {
        const RowRange rows{first, std::min(block_rows, mine.end() - first)};
        std::vector<float> block(static_cast<std::size_t>(rows.count * columns));
        read_influence(run.state, plan.columns, columns, rows, block);
        for (std::int64_t i = 0; i < rows.count; ++i) {
            const auto* row = block.data() + i * columns;
            if (plan.eligible[static_cast<std::size_t>(rows.first + i)] != 0 &&
                !std::all_of(row, row + columns, [](float x) { return std::isfinite(x); }))
                found.push_back(rows.first + i);
        }
    }
    std::vector<std::int64_t> all;
    for (const auto& part : run.comm.all_gather(std::span<const std::int64_t>(found)))
        all.insert(all.end(), part.begin(), part.end());
    return all;
}

void write_quarantine(const Run& run, io::ResultWriter& writer, const TargetLabels& targets) {
    std::vector<config::Quarantined> rows = run.inputs.plan.pool_quarantine;
    for (const auto row : non_finite_rows(run, targets.columns()))
        rows.push_back({row, config::QuarantineReason::non_finite});
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
    std::vector<config::Quarantined> target_rows = run.inputs.plan.target_quarantine;
    for (const auto place : targets.dropped)
        target_rows.push_back(
            {run.inputs.plan.target_rows[static_cast<std::size_t>(place)], config::QuarantineReason::non_finite});
    std::sort(target_rows.begin(), target_rows.end(), [](const auto& a, const auto& b) { return a.row < b.row; });
    const auto write = [&](const std::string& group, const std::vector<config::Quarantined>& list) {
        std::vector<std::int64_t> index;
        std::vector<std::string> reason;
        for (const auto& entry : list) {
            index.push_back(entry.row);
            reason.push_back(config::to_string(entry.reason));
        }
        writer.small<std::int64_t>(group + "/index", index);
        writer.strings(group + "/reason", reason);
    };
    write("/quarantine", rows);
    write("/target_quarantine", target_rows);
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
    writer.strings("/task/name", tasks);
    if (results.propagation == nullptr) return;
    const auto& trust = results.propagation->trust;
    writer.small<double>("/column/loo_r2", trust.column_r2);
    writer.small<double>("/task/loo_r2", trust.task_r2);
    writer.small<double>("/task/loo_r2_within_source", trust.task_r2_within_source);
    writer.small<double>("/task/loo_spearman", trust.task_spearman);
    writer.small<double>("/task/loo_r2_source_only", trust.task_r2_source_only);
    writer.small<double>("/task/loo_spearman_source_only", trust.task_spearman_source_only);
    writer.small<std::int64_t>("/landmark/index", run.inputs.plan.landmarks);
    writer.small<float>("/landmark/influence", floats(results.landmarks->influence), results.targets.columns());
    writer.small<float>("/landmark/loo", floats(results.propagation->leave_one_out), results.targets.columns());
    writer.attribute("damping", results.propagation->solution.damping);
    writer.attribute("intercept", static_cast<std::int64_t>(results.propagation->solution.has_intercept));
    writer.attribute("bandwidth", results.propagation->solution.embedding_bandwidth);
}

/// Ids of the picks, in their order, on every rank: read by rank 0 in the order of the file, broadcast as one text.
std::vector<std::string> ids_of(comm::Communicator& comm, const std::vector<selection::Pick>& picks,
                                const std::function<std::vector<std::string>(RowRange)>& read_ids) {
    std::vector<std::uint8_t> text;
    if (comm.is_root()) {
        std::vector<std::size_t> order(picks.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::sort(order.begin(), order.end(),
                  [&](std::size_t a, std::size_t b) { return picks[a].row < picks[b].row; });
        std::vector<std::string> ids(picks.size());
        for (const auto i : order) ids[i] = read_ids({picks[i].row, 1}).front();
        for (const auto& id : ids) text.insert(text.end(), id.c_str(), id.c_str() + id.size() + 1);
    }
    auto size = static_cast<std::int64_t>(text.size());
    comm.broadcast(std::span<std::int64_t>(&size, 1));
    text.resize(static_cast<std::size_t>(size));
    comm.broadcast(std::span<std::uint8_t>(text));
    std::vector<std::string> ids;
    for (auto begin = text.begin(); begin != text.end();) {
        const auto end = std::find(begin, text.end(), std::uint8_t{0});
        ids.emplace_back(begin, end);
        begin = end + 1;
    }
    return ids;
}

/// Rank 0's timings on every rank: attributes are the same everywhere.
Timings agreed_timings(comm::Communicator& comm, Timings timings) {
    for (auto& [stage, seconds] : timings) comm.broadcast(std::span<double>(&seconds, 1));
    return timings;
}

void write_selection_attributes(io::ResultWriter& writer, const config::Settings& settings,
                                const selection::Selection& selection, const std::string& program) {
    writer.attribute("program", program);
    writer.attribute("settings", config::to_json(settings));
    writer.attribute("selected_tokens", selection.tokens);
}

}  // namespace

void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     std::int64_t pool_rows, const std::function<std::vector<std::string>(RowRange)>& read_ids) {
    const auto mine = data::shard_of(pool_rows, comm.rank(), comm.size());
    const auto k = selection.picks.size();
    const auto weight = static_cast<float>(static_cast<double>(pool_rows) / static_cast<double>(k));
    std::vector<std::uint8_t> chosen(static_cast<std::size_t>(mine.count), 0);
    std::vector<std::int64_t> index;
    std::vector<std::int32_t> column;
    for (const auto& pick : selection.picks) {
        index.push_back(pick.row);
        column.push_back(pick.column);
        if (pick.row >= mine.first && pick.row < mine.end())
            chosen[static_cast<std::size_t>(pick.row - mine.first)] = 1;
    }
    writer.rows<float>("/weight", pool_rows, 0, mine, [&](RowRange rows, std::span<float> out) {
        for (std::int64_t i = 0; i < rows.count; ++i)
            out[static_cast<std::size_t>(i)] =
                chosen[static_cast<std::size_t>(rows.first + i - mine.first)] != 0 ? weight : 0.0F;
    });
    writer.small<std::int64_t>("/selected/index", index);
    writer.strings("/selected/id", ids_of(comm, selection.picks, read_ids));
    writer.small<float>("/selected/weight", std::vector<float>(k, 1.0F));
    writer.small<std::int32_t>("/selected/column", column);
}

void check_output_is_free(const config::Settings& settings, comm::Communicator& comm) {
    if (comm.is_root() && !settings.overwrite && std::filesystem::exists(settings.out))
        throw Error(ExitCode::result_exists, {settings.out, "", "no file of this name", "a finished result",
                                              "Choose another --out, or give --overwrite."});
}

void write_result(const Run& run, const Results& results) {
    io::ResultWriter writer(run.comm, run.settings.out);
    write_pool_rows(run, writer, results);
    write_selection(run.comm, writer, results.selection, run.inputs.plan.pool_rows,
                    [&](RowRange rows) { return run.inputs.pool.read_ids(rows); });
    write_columns(run, writer, results);
    write_quarantine(run, writer, results.targets);
    write_selection_attributes(writer, run.settings, results.selection, results.program);
    writer.attribute("model_sha256", run.model.sha256);
    writer.attribute("pool_sha256", run.inputs.pool.index().content_sha256);
    writer.attribute("targets_sha256", run.inputs.targets.index().content_sha256);
    writer.attribute("loss", std::string("mean cross entropy over the label tokens of a sample"));
    writer.attribute("ranks", static_cast<std::int64_t>(run.comm.size()));
    writer.attribute("units_recovered", run.state.units_recovered());
    for (const auto& [stage, seconds] : agreed_timings(run.comm, results.timings))
        writer.attribute("seconds_" + stage, seconds);
    writer.commit();
}

void select_again(const config::Settings& settings, comm::Communicator& comm, const std::string& program) {
    const io::RunLock lock(comm, settings.out + ".lock");
    check_output_is_free(settings, comm);
    const io::ResultReader result(settings.result);
    const auto rows = result.row_count("/influence");
    const auto columns = result.width("/influence");
    const auto mine = data::shard_of(rows, comm.rank(), comm.size());
    const auto tokens = result.read<std::int32_t>("/tokens");
    const auto source = result.read<std::int32_t>("/source/index");
    std::vector<std::uint8_t> eligible(static_cast<std::size_t>(rows), 1);
    for (const auto row : result.read<std::int64_t>("/quarantine/index")) eligible[static_cast<std::size_t>(row)] = 0;
    auto request = selection_request(settings, result.read_strings("/source/name"));
    request.column_task = result.read<std::int32_t>("/column/task");
    request.tasks = static_cast<std::int32_t>(result.row_count("/task/name"));
    request.eligible = eligible;
    request.tokens = tokens;
    request.source = source;
    const selection::Shard shard{rows, mine.first, mine.count, columns,
                                 [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                                     result.read_rows<float>("/influence", {first, count}, out);
                                 }};
    const auto selection = selection::select(comm, shard, request);
    say(comm, fmt::format("selected {} of {} samples, {} tokens", selection.picks.size(), rows, selection.tokens));
    io::ResultWriter writer(comm, settings.out, settings.result);
    write_selection(comm, writer, selection, rows, [&](RowRange range) { return result.read_strings("/id", range); });
    writer.attribute("selection_settings", config::to_json(settings));
    writer.attribute("selection_program", program);
    writer.attribute("selected_tokens", selection.tokens);
    writer.commit();
}

}  // namespace idistill::stages
