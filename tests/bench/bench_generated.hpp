#pragma once
// What bench_passes measures of generated numbers, without a model.

#include <cstdint>
#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::benchmarks {

/// 5 % of the rows at second order: seconds, and the most memory that the ranks had together.
void bench_weights(comm::Communicator& comm, std::int64_t rows, std::int64_t columns, const std::string& variant);

/// Scores of all pairs of ROWS samples a rank with COLUMNS, from embeddings of 1024 numbers: the halves once, then the
/// pairs, whose sums are kept so that none is left out.
void bench_network(comm::Communicator& comm, std::int64_t rows, std::int64_t columns, bool symmetric);

}  // namespace idistill::benchmarks
