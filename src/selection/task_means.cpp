#include "idistill/selection/task_means.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace idistill::selection {

TaskMeans::TaskMeans(std::vector<std::int32_t> column_task, std::int32_t tasks)
    : column_task_(std::move(column_task)), columns_(static_cast<std::size_t>(tasks), 0.0) {
    for (const std::int32_t task : column_task_) ++columns_[static_cast<std::size_t>(task)];
}

void TaskMeans::operator()(std::span<const float> influence, std::span<double> means) const {
    std::fill(means.begin(), means.end(), 0.0);
    for (std::size_t column = 0; column < influence.size(); ++column)
        means[static_cast<std::size_t>(column_task_[column])] += static_cast<double>(influence[column]);
    for (std::size_t task = 0; task < means.size(); ++task) means[task] /= columns_[task];
}

PickedInfluence::PickedInfluence(const Request& request)
    : by_maximum_(request.top_k_by_maximum),
      means_(request.column_task, request.tasks),
      of_task_(static_cast<std::size_t>(request.tasks)) {}

double PickedInfluence::operator()(std::span<const float> influence, std::int32_t column) const {
    if (column >= 0) return static_cast<double>(influence[static_cast<std::size_t>(column)]);
    means_(influence, of_task_);
    return by_maximum_ ? *std::max_element(of_task_.begin(), of_task_.end())
                       : std::accumulate(of_task_.begin(), of_task_.end(), 0.0) / static_cast<double>(of_task_.size());
}

}  // namespace idistill::selection
