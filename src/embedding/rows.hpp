#pragma once
// Rows of embeddings: micro-batches, order, projection.

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "idistill/data/rows.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::embedding {

/// Runs `embed` (members of a micro-batch -> rows x width) over micro-batches of samples of these lengths and puts the
/// rows in the order of the samples: (n x width) fp32. A sample of length 0 gets zeros.
torch::Tensor in_micro_batches(const model::Decoder& decoder, const std::vector<std::int32_t>& lengths,
                               std::int64_t width, std::int64_t batch_tokens,
                               const std::function<torch::Tensor(const std::vector<std::int64_t>&)>& embed);

/// The members of a micro-batch, whole.
model::PackedBatch packed(const model::Decoder& decoder, const data::Samples& samples,
                          const std::vector<std::int32_t>& lengths, const std::vector<std::int64_t>& members);

/// Tokens of every sample.
std::vector<std::int32_t> lengths_of(const data::Samples& samples);

/// Projection (from x to) by random signs over sqrt(to); undefined where nothing has to be projected.
torch::Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options);
torch::Tensor project(const torch::Tensor& x, const torch::Tensor& matrix);

/// Bytes of such a projection; 0 where nothing has to be projected.
inline double projection_bytes(std::int64_t from, std::int64_t to) {
    return from > to ? 4.0 * static_cast<double>(from) * static_cast<double>(to) : 0.0;
}
/// FLOPs of projecting one row.
inline double projection_flops(std::int64_t from, std::int64_t to) {
    return from > to ? 2.0 * static_cast<double>(from) * static_cast<double>(to) : 0.0;
}

/// At most as many blocks as the model has. Throws Error(usage) that names `option` and what was given.
void check_blocks(const model::ModelConfig& config, std::int64_t blocks, const std::string& option,
                  const std::string& given, const std::string& remedy);

}  // namespace idistill::embedding
