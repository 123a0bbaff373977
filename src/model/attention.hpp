#pragma once
// Causal grouped-query attention of packed samples. One sample after the other: in chunks of queries, so that no score
// matrix of a whole sample is ever held and keys behind a chunk's last query are not touched. Padded: of many samples
// at once, and of long ones in chunks, too, so that scores are never more than working memory; on CUDA in 16 bits by
// PyTorch's flash attention where no tangents are wanted. Scores are recomputed in the backward and tangent passes
// instead of being kept.

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "idistill/model/model_config.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::model {

struct KeysAndValues;  // continuation.hpp

/// q (R x heads head_dim) at the subset's rows, k and v (T x kv_heads head_dim) at all rows; rows may be strided.
struct AttentionInput {
    torch::Tensor q, k, v;
};

/// (R x heads head_dim). Every sample sees the keys of `before`, too, which come before its own (null: none).
torch::Tensor attention(const model::ModelConfig& config, const AttentionInput& input, const SampleRows& samples,
                        const RowSubset& queries, const KeysAndValues* before = nullptr);

/// Keys or values (T x kv_heads head_dim; rows may be strided) as (kv_heads x T x head_dim), in memory of their own.
torch::Tensor keys_by_head(const model::ModelConfig& config, const torch::Tensor& x);

/// Gradients of q, k, v, contiguous, for the gradient of the output.
AttentionInput attention_backward(const model::ModelConfig& config, const AttentionInput& input,
                                  const SampleRows& samples, const RowSubset& queries, const torch::Tensor& gradient);

/// The same along tangents of inputs and gradient: the gradients, then their tangents.
struct AttentionGradients {
    AttentionInput value, tangent;
};
AttentionGradients attention_backward_tangent(const model::ModelConfig& config, const AttentionInput& input,
                                              const AttentionInput& input_tangent, const SampleRows& samples,
                                              const RowSubset& queries, const torch::Tensor& gradient,
                                              const torch::Tensor& gradient_tangent);

/// Primal and tangents together: inputs are stacks of 1 + K streams (the primal first), so is the result ((1 + K) R x
/// ...).
torch::Tensor attention_with_tangents(const model::ModelConfig& config, const AttentionInput& stacked,
                                      const SampleRows& samples, const RowSubset& queries, std::int64_t tangents);

}  // namespace idistill::model
