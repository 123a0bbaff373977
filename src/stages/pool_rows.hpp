#pragma once
// Rows of a unit as the state keeps them.

#include "run.hpp"

namespace idistill::stages {

/// Places in the unit of these rows, which are in it.
std::vector<std::int64_t> places_in_unit(const data::WorkUnit& unit, const std::vector<std::int64_t>& rows);

/// The datasets of a unit of so many rows, in the order of Layout::state_columns(): exact influence of the samples at
/// their places in the unit (empty: the first ones), NaN elsewhere.
std::vector<torch::Tensor> exact_unit(const Run& run, std::int64_t rows, const data::SampleSet& samples,
                                      std::vector<std::int64_t> places = {});

}  // namespace idistill::stages
