#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/selection/selection.hpp"

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

/// The influence by which a selection picks: on the column of the pick; where the rule does not go by columns the mean
/// (or maximum) over the request's tasks of the task's mean.
class PickedInfluence {
public:
    explicit PickedInfluence(const Request& request);

    /// `influence` (columns) of a row; column -1: none. Not for several threads.
    [[nodiscard]] double operator()(std::span<const float> influence, std::int32_t column) const;

private:
    bool by_maximum_;
    TaskMeans means_;
    mutable std::vector<double> of_task_;
};

}  // namespace idistill::selection
