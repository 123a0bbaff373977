#pragma once
// Random matrices: every number depends on the stream, its row and its column alone, drawn in fp32 whatever the
// options say.

#include <torch/types.h>

#include <cstdint>

#include "idistill/base/philox.hpp"
#include "idistill/data/rows.hpp"

namespace idistill::model {

/// (rows x columns) standard normal numbers times `scale`.
torch::Tensor gaussian(const Philox& random, std::int64_t rows, std::int64_t columns, double scale,
                       const torch::TensorOptions& options);

/// (rows.count x columns) numbers `scale` or -`scale`, equally likely: these rows of a matrix that need not be made
/// whole.
torch::Tensor signs(const Philox& random, data::RowRange rows, std::int64_t columns, double scale,
                    const torch::TensorOptions& options);

}  // namespace idistill::model
