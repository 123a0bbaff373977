#pragma once
// Kernel ridge regression from landmarks to the pool (METHOD.md section 2), with closed-form leave-one-out trust.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace idistill::propagation {

/// What is known of some samples before their influence is: the rows of the kernels.
struct Features {
    torch::Tensor embedding;    ///< (n x e) fp32
    torch::Tensor source;       ///< (n) int64 source numbers; undefined: no metadata kernels
    torch::Tensor log_lengths;  ///< (n x 2) fp32: log tokens, log label tokens; undefined: no metadata kernels
};

/// Mean of unit-diagonal kernels: RBF exp(-d^2 / (2 sigma^2)) on the embedding; with metadata also [same source] and an RBF
/// on the log lengths. sigma: median distance between landmarks (over the first 1000, all pairs), at least 1e-6.
struct KernelSettings {
    std::optional<double> bandwidth;  ///< of the embedding; nothing: median
    bool metadata = true;
};

/// How far the propagation can be trusted, from leave-one-out predictions of the landmarks (a task's value: mean over its columns).
struct Trust {
    std::vector<double> column_r2;               ///< (M)
    std::vector<double> task_r2;                 ///< (tasks)
    std::vector<double> task_r2_within_source;   ///< (tasks); both sides centred by source, sources of two and more landmarks
    std::vector<double> task_spearman;           ///< (tasks)
    std::vector<double> task_r2_source_only;     ///< (tasks) leave-one-out R2 of 'source name alone' with its own best damping
    std::vector<double> task_spearman_source_only;
};

struct DampingTrial {
    double damping = 0.0;
    bool intercept = false;
    double error = 0.0;  ///< mean over tasks of leave-one-out squared error over variance (1 - R2)
};

/// Everything the other ranks need to propagate.
struct Solution {
    KernelSettings kernel;
    Features landmarks;              ///< L rows
    double embedding_bandwidth = 0;  ///< sigma in use
    double length_bandwidth = 0;
    torch::Tensor coefficients;      ///< V (L x C) fp64
    torch::Tensor intercept;         ///< (C) fp64, zeros when none
    double damping = 0;
    bool has_intercept = false;
};

struct SolveResult {
    Solution solution;
    torch::Tensor leave_one_out;  ///< (L x C) fp64
    Trust trust;
    std::vector<DampingTrial> trials;  ///< what --damping auto compared; empty when fixed
};

/// Rank 0, fp64, one factorisation for all columns. `labels` (L x C) fp32: M influence columns, then further columns (log gradient
/// norm) that take no part in trust or damping. column_task (M). `damping` nothing: chosen with the intercept by leave-one-out.
/// A fixed damping chooses only the intercept so. Works for L = 1 (prediction = the label) and equal labels (R2 is NaN there).
SolveResult solve(const Features& landmarks, const torch::Tensor& labels, const std::vector<std::int32_t>& column_task,
                  std::int32_t tasks, const KernelSettings& kernel, std::optional<double> damping);

/// K(samples, landmarks) V + intercept, (n x C) fp32; kernel evaluated in fp32 on the features' device, GEMM in fp32.
torch::Tensor propagate(const Solution& solution, const Features& samples);

}  // namespace idistill::propagation
