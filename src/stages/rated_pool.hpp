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

/// What there is to choose by. Where no column tells the samples apart but for rounding, all have the same numbers, so
/// that picks go by the order of the pool and not by the last bits. Collective.
selection::InfluenceRows to_choose_by(comm::Communicator& comm, const RatedPool& pool);

/// Rows of so many numbers in a block of bounded memory.
std::int64_t rows_of_block(std::int64_t width);

}  // namespace idistill::stages
