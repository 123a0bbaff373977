#pragma once
// How far a propagation can be trusted: agreement of leave-one-out predictions with the truth; and which of several
// ways to predict is worth its cost. No LibTorch here.

#include <cstddef>
#include <span>
#include <vector>

namespace idistill::propagation {

/// From leave-one-out predictions of the landmarks; a task's value is the mean over its columns. A value is NaN where
/// it is undefined: constant truth, no columns, no sources known.
struct Trust {
    std::vector<double> column_r2;  ///< (M)
    std::vector<double> task_r2;    ///< (tasks)
    std::vector<double>
        task_r2_within_source;  ///< (tasks) of differences within a source, both landmarks left out; 0: source alone
    std::vector<double> task_spearman;        ///< (tasks)
    std::vector<double> task_r2_source_only;  ///< (tasks) 'source name alone', with its own best damping and intercept
    std::vector<double> task_spearman_source_only;  ///< (tasks)
    std::vector<double> task_label_variance;        ///< (tasks)
    /// (tasks) share of it that is error of the labels, which no propagation can predict: R2 is 1 less this at most.
    std::vector<double> task_label_noise;
};

/// 1 - SSE / SST, SST about the mean of `truth`; NaN when the truth is constant but for rounding.
[[nodiscard]] double r_squared(std::span<const double> truth, std::span<const double> prediction);

/// Rank correlation, ties with their average rank; NaN when either side is constant but for rounding, or holds a NaN.
[[nodiscard]] double spearman(std::span<const double> a, std::span<const double> b);

/// Mean of the values that are numbers; NaN of none.
[[nodiscard]] double mean_of_numbers(const std::vector<double>& values);

/// The cheapest whose error is at most `slack` times the least error; of equal costs the one with less error, then the
/// first. An error that is NaN (no task varies) counts as worst; when all are, the cheapest.
[[nodiscard]] std::size_t cheapest_near_best(std::span<const double> errors, std::span<const double> costs,
                                             double slack);

}  // namespace idistill::propagation
