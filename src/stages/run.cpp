#include "run.hpp"

namespace idistill::stages {

propagation::Tasks tasks_of(const Run& run) {
    propagation::Tasks tasks{run.columns.task, run.inputs.usable.task_names, run.columns.task_error, {}};
    tasks.label_error.resize(tasks.names.size());
    const auto& usable = run.inputs.usable;
    tasks.targets.resize(run.columns.task.size());
    const bool by_task = run.command.inputs().columns == options::ColumnKind::tasks;
    for (std::size_t i = 0; i < run.columns.kept.size(); ++i) {  // a task's column is at its own place
        const auto place = static_cast<std::size_t>(run.columns.kept[i]);
        tasks.targets[by_task ? static_cast<std::size_t>(usable.target_task[place]) : i].push_back(
            usable.target_rows[place]);
    }
    return tasks;
}

}  // namespace idistill::stages
