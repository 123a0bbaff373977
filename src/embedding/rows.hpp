#pragma once
// Rows of embeddings: micro-batches, order, projection.

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/model/decoder.hpp"

namespace idistill::embedding {

/// Runs `embed` (members of a micro-batch -> rows x width) over micro-batches of samples of these lengths and puts the
/// rows in the order of the samples: (n x width) fp32. A sample of length 0 gets zeros.
torch::Tensor in_micro_batches(const model::Decoder& decoder, const std::vector<std::int32_t>& lengths,
                               std::int64_t width, std::int64_t batch_tokens,
                               const std::function<torch::Tensor(const std::vector<std::int64_t>&)>& embed);

/// Tokens of every sample.
std::vector<std::int32_t> lengths_of(const data::Samples& samples);

/// Projection (from x to) by random signs over sqrt(to); undefined where nothing has to be projected.
torch::Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options);
torch::Tensor project(const torch::Tensor& x, const torch::Tensor& matrix);

}  // namespace idistill::embedding
