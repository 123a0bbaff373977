#pragma once
// The dual of the weighted problem for one lambda, and its maximum.
//
// With G = F diag(sqrt(curvature / N)), clipped columns zero, the problem is: minimise over w >= 0, sum w = N
//     f(w) = -p.w + |G'w|^2 / 2 + lambda |w|^2 / 2.
// A dual variable x stands for G'w. Given x, the scores s = p - G x decide the weights w = max(0, s - nu) / lambda, nu
// being the threshold where they add up to N, and the concave dual value is D(x) = f(w) - |G'w - x|^2 / 2, its gradient
// the residual G'w - x. So the gap between f(w) and the minimum is at most half the squared residual. The dual is
// piecewise quadratic; on a piece with the rows A of positive weight its Hessian is -(I + C / lambda), C being the
// covariance sum over A of (G_i - mean)(G_i - mean)'.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "thresholds.hpp"

namespace idistill::selection {

/// Variables of one problem on this rank.
struct DualRows {
    WeightLimits limits;
    std::span<const double> influence;  ///< (n) p
    std::span<const float> factor;      ///< (n x r) F
    std::vector<double> scale;          ///< (r) sqrt(curvature / N); 0 for a column that does not count
};

/// What a dual variable x gives.
struct DualPoint {
    std::vector<double> x;            ///< (r)
    double threshold = 0.0;           ///< nu, of rows that are in no full group
    std::vector<std::size_t> active;  ///< local rows of positive weight, ascending
    std::vector<double> weight;       ///< of these
    std::int64_t support = 0;         ///< positive weights on all ranks
    std::int64_t largest = 0;         ///< of these, how many have the largest weight
    std::vector<bool> full;           ///< (groups) which have their most weight
    std::vector<double> mean;         ///< (groups + 1, r) of the rows F_i that move together: of full groups; the rest
    std::vector<double> residual;     ///< (r) G'w - x
    double objective = 0.0;           ///< f(w)
    double gap = 0.0;                 ///< f(w) - D(x) >= f(w) - minimum
    double magnitude = 0.0;           ///< of the terms of f: what a gap is small against
    [[nodiscard]] double dual() const noexcept { return objective - gap; }
};

class WeightDual {
public:
    WeightDual(const BlockSums& sums, DualRows rows);

    /// Collective. `near`: a threshold to start from; only speed depends on it.
    [[nodiscard]] DualPoint evaluate(std::vector<double> x, double lambda, double near);

    /// Collective: the maximum for this lambda by Newton steps with line search, started at `start`. Ends at a gap of
    /// 1e-22 of the magnitude, or where rounding lets no step gain. Adds its steps to `iterations`.
    [[nodiscard]] DualPoint maximise(const DualPoint& start, double lambda, std::int64_t& iterations);

private:
    void compute_scores(std::span<const double> x);
    void weigh(DualPoint& point, const Thresholds& thresholds, double lambda) const;
    void sum_active(DualPoint& point, double lambda) const;
    void find_means(DualPoint& point) const;
    /// Which rows the a-th active one moves with: a full group, or the number of groups for the rest; nothing for a row
    /// at the largest weight.
    [[nodiscard]] std::optional<std::size_t> moves_with(const DualPoint& point, std::size_t a) const;
    [[nodiscard]] std::vector<double> curvature_along(const DualPoint& point, double lambda,
                                                      std::span<const double> direction) const;
    [[nodiscard]] std::vector<double> newton_direction(const DualPoint& point, double lambda) const;

    const BlockSums& sums_;
    DualRows rows_;
    ThresholdFinder thresholds_;
    std::size_t width_;
    std::vector<double> below_;  ///< (n) scores minus the largest of all ranks
    double highest_ = 0.0;       ///< that largest score
};

}  // namespace idistill::selection
