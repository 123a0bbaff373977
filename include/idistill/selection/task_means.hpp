#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace idistill::selection {

/// Mean influence on each task: of a row's columns, added in column order in fp64. NaN for a task without columns.
class TaskMeans {
public:
    /// `column_task` (columns): task number of every column, below `tasks`.
    TaskMeans(std::vector<std::int32_t> column_task, std::int32_t tasks);

    /// influence (columns) -> means (tasks).
    void operator()(std::span<const float> influence, std::span<double> means) const;

private:
    std::vector<std::int32_t> column_task_;
    std::vector<double> columns_;  ///< (tasks) how many
};

}  // namespace idistill::selection
