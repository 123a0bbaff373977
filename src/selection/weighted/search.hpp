#pragma once
// The lambda that gives a wanted number of positive weights.

#include <cstdint>

#include "dual.hpp"

namespace idistill::selection {

/// Collective. The smallest support of at least k that was met while lambda was searched, from `lambda` and the
/// solution `near` on, down to 1e-6 of it; of equal ones that of the larger lambda.
DualPoint smallest_support(WeightDual& dual, double lambda, std::int64_t k, const DualPoint& near);

/// Collective, first order, where the support grows with lambda: the largest lambda, to nine digits, that gives k
/// positive weights; where none does (scores are tied, or limits part the weights), one for the nearest number met, the
/// lower of two. Searched from `lambda` on, down to 1e-6 of it. Of all `rows`, where k asks for these: the first met.
DualPoint nearest_support(WeightDual& dual, double lambda, std::int64_t k, std::int64_t rows, const DualPoint& near);

}  // namespace idistill::selection
