#pragma once
// Trust within sources: which of two samples of a source is better, asked of a fit that knows neither.

#include <torch/types.h>

#include <functional>
#include <vector>

namespace idistill::propagation {

/// Kernel ridge on labels Y (L x T), in terms of C: with B = (K + damping I)^-1, C is B, or with an intercept
/// B - B11'B / (1'B1).
struct LinearFit {
    torch::Tensor labels;        ///< Y (L x T) fp64
    torch::Tensor coefficients;  ///< C Y (L x T)
    torch::Tensor diagonal;      ///< of C (L)
    /// C at some rows and columns, both int64.
    std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&)> between;
};

/// (T) 1 - SSE / SST over differences between two landmarks of a source, predicted by the fit without both. A pair
/// counts by one over the landmarks of its source, which makes SST the sum of squares about the source's mean. Knowing
/// the source and nothing else is worth exactly 0, as on samples that are no landmarks; predictions that leave out one
/// landmark each would have less, as without it the mean of its source moves against it. NaN where no source has two
/// landmarks that differ. Leaving out two must leave something to fit: with an intercept a third landmark. `source` (L)
/// int64.
[[nodiscard]] std::vector<double> r_squared_of_left_out_pairs(const LinearFit& fit, const torch::Tensor& source);

}  // namespace idistill::propagation
