#pragma once
// Reading what the stages before left: influence as it is selected by and written.

#include "run.hpp"

namespace idistill::stages {

/// The first `width` products of rows of the pool (rows x width): exact where they were refined, without the room for
/// dropped columns.
void read_products(const Run& run, std::int64_t width, data::RowRange rows, std::span<float> out);
/// What propagates as a logarithm (rows x logarithms), likewise.
void read_logarithmic(const Run& run, data::RowRange rows, std::span<float> out);

/// The run as it was before refining.
Run without_refinement(const Run& run);

/// It refers to the run.
RatedPool rated_pool(const Run& run);

/// Rows of so many numbers in a block of bounded memory.
std::int64_t rows_of_block(std::int64_t width);

}  // namespace idistill::stages
