#pragma once
// Kernel ridge regression from landmarks to the pool (Influence Distillation, arXiv 2505.19051; here with an intercept
// and metadata kernels), with closed-form leave-one-out trust.

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "idistill/propagation/trust.hpp"

namespace idistill::propagation {

/// What is known of some samples before their influence is: the rows of the kernels.
struct Features {
    torch::Tensor embedding;    ///< (n x e) fp32; several embeddings stand side by side
    torch::Tensor source;       ///< (n) int64 source numbers from 0; undefined: no metadata kernels, no trust by source
    torch::Tensor log_lengths;  ///< (n x 2) fp32: log tokens, log label tokens; undefined: no metadata kernels
};

/// Mean of unit-diagonal kernels: RBF exp(-d^2 / (2 sigma^2)) on every embedding, each with a sigma of its own, or
/// their product as one kernel; with metadata also [same source] and an RBF on the log lengths. Median bandwidth: the
/// median distance over all pairs of the first 1000 landmarks (mean of the two middle ones for an even count); where
/// that is 0, the median over the pairs that differ; at least 1e-6.
struct KernelSettings {
    std::optional<double> bandwidth;  ///< of every embedding; nothing: its median, or one of its multiples
    bool metadata = true;
    /// Among 1/4, 1/2, 1, 2 and 4 times the median, the same for all embeddings; without effect beside `bandwidth`.
    bool choose_bandwidth = false;
    std::vector<std::int64_t> widths = {};  ///< of the embeddings side by side; empty: there is one
    bool product = false;                   ///< of the embeddings' kernels; otherwise their sum
    bool choose_product = false;            ///< whichever of the two is better; without effect on one embedding
    torch::Device device = torch::kCPU;     ///< that decomposes the kernels
};

struct DampingTrial {
    double damping = 0.0;
    bool intercept = false;
    double error =
        0.0;  ///< mean over tasks of leave-one-out squared error over variance (1 - R2); NaN when no task varies
};

/// A kernel with the damping and intercept that are best with it.
struct KernelTrial {
    std::vector<double> bandwidths;  ///< of the embeddings
    bool product = false;            ///< of their kernels; otherwise their sum
    DampingTrial best;
};

/// Everything that a rank needs to propagate; on the CPU.
struct Solution {
    KernelSettings kernel;                     ///< metadata: whether in use
    Features landmarks;                        ///< L rows; without metadata the embedding alone
    std::vector<double> embedding_bandwidths;  ///< sigma in use, of every embedding
    double length_bandwidth = 0;               ///< the same of the log lengths; 0 without metadata
    torch::Tensor coefficients;                ///< V (L x C) fp64
    torch::Tensor intercept;                   ///< (C) fp64, zeros where none
    double damping = 0;
    bool has_intercept = false;  ///< of the influence columns; further columns always have one
};

struct SolveResult {
    Solution solution;
    torch::Tensor leave_one_out;  ///< (L x C) fp64
    Trust trust;
    std::vector<DampingTrial>
        trials;  ///< what was compared, in order of damping; with a fixed damping the intercept only
    std::vector<KernelTrial>
        kernels;  ///< products, then sums, bandwidths ascending; `trials` are those of the chosen one
};

/// True for the trial of the solution's kernel.
bool is_chosen(const KernelTrial& trial, const Solution& solution);

/// Rank 0, fp64, one factorisation for all columns. `labels` (L x C) fp32: M influence columns, then further columns
/// (log gradient norm) that take no part in trust or in the choices, and always get an intercept: nothing draws them to
/// 0. column_task (M). `damping` nothing: 25 values from 1e-4 to 1e2, each with and without intercept, compared by the
/// leave-one-out error of the task means; on a tie (1e-9) the larger damping, then the intercept. A fixed damping
/// leaves the intercept to be chosen. With choose_bandwidth or choose_product this is done for every kernel, at one
/// eigendecomposition each, and the least error wins, on a tie (1e-9) the sum and the larger bandwidth. L = 1, or
/// labels that are all equal: largest bandwidth and damping, intercept, prediction = the label; for L = 1 leave-one-out
/// is NaN, as no landmark is left. L = 2: with the intercept each landmark predicts the other's label. Throws
/// Error(usage) for a damping or bandwidth that is not positive, Error(bad_input) for features or labels that are not
/// finite.
SolveResult solve(const Features& landmarks, const torch::Tensor& labels, const std::vector<std::int32_t>& column_task,
                  std::int32_t tasks, const KernelSettings& kernel, std::optional<double> damping);

/// The streaming half: K(samples, landmarks) V + intercept. Everything of the solution is prepared once, in fp32, on
/// `device`. Rows are computed in blocks of 512 from the first on: a row's bits depend on its place among the rows it
/// comes with, so equal calls (a work unit) give equal bits. A sample with an embedding that is not finite gets NaN.
class Propagator {
public:
    explicit Propagator(const Solution& solution, torch::Device device = torch::kCPU);

    /// (n x C) fp32 on the propagator's device. A source that no landmark has is like no other source.
    [[nodiscard]] torch::Tensor operator()(const Features& samples) const;

private:
    /// RBF between samples and fixed points: both are centred by the points' mean, which keeps fp32 distances sharp.
    struct Rbf {
        torch::Tensor centre;  ///< (1 x e)
        torch::Tensor points;  ///< (e x L), centred
        torch::Tensor bias;    ///< (1 x L) -|point|^2 / (2 sigma^2)
        double precision = 0;  ///< 1 / sigma^2
    };
    static Rbf make_rbf(const torch::Tensor& points, double bandwidth, torch::Device device);
    static torch::Tensor evaluate(const Rbf& rbf, const torch::Tensor& rows);

    /// The embeddings' kernels of some samples, added or multiplied.
    [[nodiscard]] torch::Tensor embedding_kernel(const torch::Tensor& rows) const;

    torch::Device device_;
    std::vector<std::int64_t> widths_;
    torch::Tensor scale_;          ///< (1 x e) one over the bandwidth of every number, for a product; else undefined
    std::vector<Rbf> embeddings_;  ///< one each, or one of all for a product
    Rbf lengths_;
    bool metadata_ = false;
    torch::Tensor coefficients_;  ///< (L x C) over the number of kernels
    torch::Tensor
        offsets_;  ///< (sources + 1 x C): what the source kernel adds, with the intercept; last: other sources
};

}  // namespace idistill::propagation
