#include "idistill/selection/task_means.hpp"

#include <algorithm>
#include <utility>

namespace idistill::selection {

TaskMeans::TaskMeans(std::vector<std::int32_t> column_task, std::int32_t tasks)
    : column_task_(std::move(column_task)), columns_(static_cast<std::size_t>(tasks), 0.0) {
    for (const std::int32_t task : column_task_) ++columns_[static_cast<std::size_t>(task)];
}

void TaskMeans::operator()(std::span<const float> influence, std::span<double> means) const {
    std::fill(means.begin(), means.end(), 0.0);
    for (std::size_t column = 0; column < influence.size(); ++column) {
        means[static_cast<std::size_t>(column_task_[column])] += static_cast<double>(influence[column]);
    }
    for (std::size_t task = 0; task < means.size(); ++task) means[task] /= columns_[task];
}

}  // namespace idistill::selection
