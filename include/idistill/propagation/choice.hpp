#pragma once
// Which of several ways to predict is worth its cost. No LibTorch here.

#include <cstddef>
#include <span>

namespace idistill::propagation {

/// The cheapest whose error is at most `slack` times the least error; of equal costs the one with less error, then the
/// first. An error that is NaN (no task varies) counts as worst; when all are, the cheapest.
[[nodiscard]] std::size_t cheapest_near_best(std::span<const double> errors, std::span<const double> costs,
                                             double slack);

}  // namespace idistill::propagation
