#pragma once
// Optimal weights of first order without limits: w_i = max(0, (p_i - nu) / lambda).

#include <cstdint>
#include <span>

#include "block_sums.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::selection {

/// w = (p - threshold) N / excess on `count` rows.
struct ClosedForm {
    std::int64_t count = 0;  ///< k, or where p is tied there, the nearest other one
    double threshold = 0.0;
    double excess = 0.0;  ///< sum of p - threshold over the rows above it: N lambda; 0 where all p are equal
};

/// Collective. `rows`: of all ranks together, at least k.
ClosedForm closed_form(const BlockSums& sums, std::span<const double> influence, std::int64_t k, std::int64_t rows);

/// Collective.
Weights closed_form_weights(const BlockSums& sums, const WeightedProblem& problem, const ClosedForm& form);

/// Collective: the objective of first order; weights are of rows of the problem, ascending.
double linear_objective(const BlockSums& sums, const WeightedProblem& problem, const Weights& weights, double lambda);

}  // namespace idistill::selection
