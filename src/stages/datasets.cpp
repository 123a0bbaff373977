#include "datasets.hpp"

#include <ATen/ATen.h>

#include <functional>

#include "idistill/propagation/settings.hpp"

namespace idistill::stages {
namespace {

std::vector<std::string> column_names(const Run& run) {
    if (run.columns.kept.empty() || run.command.inputs().columns == options::ColumnKind::tasks)
        return run.inputs.usable.task_names;
    std::vector<std::string> names;
    for (const auto place : run.columns.kept) {
        const auto row = run.inputs.usable.target_rows[static_cast<std::size_t>(place)];
        names.push_back(run.inputs.targets().read_ids({row, 1}).front());
    }
    return names;
}

void add_landmarks(io::ResultDatasets<Beside>& made, const ResultShape& shape) {
    const auto count = std::ssize(shape.run.exact.landmarks), columns = shape.columns;
    made.numbers<std::int64_t>(
        "/landmark/index", count, [](const Beside& made) -> const auto& { return made.labels->landmarks.rows; });
    made.numbers<float>(
        "/landmark/influence", count,
        [columns](const Beside& made) {
            return work::copied(made.labels->landmarks.labels.products.narrow(1, 0, columns));
        },
        columns);
    made.numbers<float>(
        "/landmark/loo", count,
        [](const Beside& made) { return work::copied(made.run.inputs.propagation->leave_one_out()); }, columns);
    if (!shape.values.of<propagation::PropagationSettings>().landmarks_auto) return;
    // What --landmarks auto saw while it added landmarks.
    const auto growth = [&]<class T>(const std::string& name, T LandmarkTrial::*member) {
        made.numbers<T>("/landmark/growth/" + name, std::ssize(shape.run.exact.landmark_counts),
                        [member](const Beside& made) {
                            std::vector<T> values;
                            for (const auto& trial : made.labels->trials) values.push_back(trial.*member);
                            return values;
                        });
    };
    growth("landmarks", &LandmarkTrial::landmarks);
    growth("loo_r2", &LandmarkTrial::r2);
    growth("loo_r2_within_source", &LandmarkTrial::r2_within_source);
    growth("loo_spearman", &LandmarkTrial::spearman);
}

/// `planned`: rows that are known before the run.
void add_quarantine(io::ResultDatasets<Beside>& made, const std::string& group,
                    const std::vector<plan::Quarantined>& planned, std::vector<plan::Quarantined> Beside::*rows) {
    const auto reasons = [](const std::vector<plan::Quarantined>& rows) {
        std::vector<std::string> texts;
        for (const auto& row : rows) texts.push_back(plan::to_string(row.reason));
        return texts;
    };
    made.numbers<std::int64_t>(group + "/index", std::ssize(planned), [rows](const Beside& made) {
        std::vector<std::int64_t> index;
        for (const auto& row : made.*rows) index.push_back(row.row);
        return index;
    });
    made.texts(group + "/reason", std::ssize(planned), io::longest_of(reasons(planned)),
               [rows, reasons](const Beside& made) { return reasons(made.*rows); });
}

}  // namespace

io::ResultDatasets<PoolRows> pool_datasets(const ResultShape& shape) {
    const auto rows = shape.run.usable.pool_rows;
    io::ResultDatasets<PoolRows> made;
    made.numbers<float>("/influence", rows, &PoolRows::influence, shape.columns);
    const auto& extras = shape.run.influence->layout().extras;
    for (std::size_t i = 0; i < extras.size(); ++i)
        made.numbers<float>(
            extras[i].dataset, rows, [i](const PoolRows& block) -> const auto& { return block.extras[i]; },
            extras[i].width == 1 && extras[i].logarithmic ? 0 : extras[i].width);
    made.numbers<float>("/score", rows, &PoolRows::score, shape.run.usable.tasks);
    made.numbers<std::uint8_t>("/exact", rows, &PoolRows::exact);
    made.numbers<std::int32_t>("/tokens", rows, &PoolRows::tokens);
    made.numbers<std::int32_t>("/source/index", rows, &PoolRows::source);
    made.texts("/id", rows, shape.pool.longest_id, &PoolRows::ids);
    return made;
}

io::ResultDatasets<Beside> datasets_beside(const ResultShape& shape) {
    const auto& inputs = shape.values.of<options::InputSettings>();
    const auto& tasks = shape.run.usable.task_names;
    const bool by_task = shape.run.usable.target_rows.empty() || inputs.columns == options::ColumnKind::tasks;
    io::ResultDatasets<Beside> made;
    made.texts(
        "/source/name", std::ssize(shape.pool.source_names), io::longest_of(shape.pool.source_names),
        [](const Beside& made) -> const auto& { return made.run.inputs.pool.index().source_names; });
    made.texts("/column/name", shape.columns, by_task ? io::longest_of(tasks) : shape.targets.longest_id,
               [](const Beside& made) { return column_names(made.run); });
    made.numbers<std::int32_t>(
        "/column/task", shape.columns, [](const Beside& made) -> const auto& { return made.run.columns.task; });
    made.texts("/task/name", std::ssize(tasks), io::longest_of(tasks), [tasks](const Beside&) { return tasks; });
    if (shape.run.propagation) add_landmarks(made, shape);
    add_quarantine(made, "/quarantine", shape.run.usable.pool_quarantine, &Beside::quarantine);
    add_quarantine(made, "/target_quarantine", shape.run.usable.target_quarantine, &Beside::target_quarantine);
    return made;
}

io::ResultDatasets<std::vector<float>> weight_datasets(std::int64_t pool_rows) {
    io::ResultDatasets<std::vector<float>> made;
    made.numbers<float>("/weight", pool_rows, std::identity());
    return made;
}

io::ResultDatasets<Selected> selected_datasets(std::int64_t samples, std::int64_t longest_id) {
    io::ResultDatasets<Selected> made;
    made.numbers<std::int64_t>("/selected/index", samples, &Selected::index);
    made.texts("/selected/id", samples, longest_id, &Selected::ids);
    made.numbers<float>("/selected/weight", samples, &Selected::weight);
    made.numbers<std::int32_t>("/selected/column", samples, &Selected::column);
    return made;
}

io::ResultDatasets<EmbeddedRows> embedding_datasets(std::int64_t pool_rows, std::int64_t width,
                                                    std::int64_t longest_id) {
    io::ResultDatasets<EmbeddedRows> made;
    made.numbers<float>("/embedding", pool_rows, &EmbeddedRows::embedding, width);
    made.texts("/id", pool_rows, longest_id, &EmbeddedRows::ids);
    return made;
}

}  // namespace idistill::stages
