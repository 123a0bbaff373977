#pragma once
// One block of the decoder, forward, with what a backward pass needs of it.

#include "attention.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/packed_batch.hpp"

namespace idistill::model {

/// What is kept of a block between its forward and its backward pass. Norms, activations and scores are recomputed.
struct BlockTrace {
    torch::Tensor x;                   ///< (T x d) input
    AttentionInput attention;          ///< normed and rotated q (R x ...), k, v (T x ...)
    torch::Tensor raw_query, raw_key;  ///< before their norm (Qwen3 only)
    torch::Tensor attended;            ///< (R x heads head_dim)
    torch::Tensor residual;            ///< (R x d) behind the attention
    torch::Tensor gate_up;             ///< (R x 2F)
};

/// x weight' + bias.
torch::Tensor linear(const torch::Tensor& x, const Linear& layer);
/// The part of a stacked layer that makes outputs [first, first + count).
Linear part(const Linear& layer, std::int64_t first, std::int64_t count);
/// RMS norm of every head of x (rows x heads head_dim; rows may be strided), contiguous.
torch::Tensor norm_heads(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);
/// Rotation at the rows of a subset.
Decoder::Rotation take_rotation(const Decoder::Rotation& rotation, const RowSubset& rows);

/// Output (R x d) of block `b` at the rows of the subset; fills `trace` if given.
torch::Tensor block_forward(const Decoder& decoder, std::size_t b, const torch::Tensor& x, const PackedBatch& batch,
                            const RowSubset& rows, BlockTrace* trace);

}  // namespace idistill::model
