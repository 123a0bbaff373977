#pragma once
// Samples that continue one shared beginning: its keys and values are computed once and read by all of them.

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/model/decoder.hpp"
#include "idistill/model/packed_batch.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {

/// Keys, normed and rotated, and values of a block, each (kv_heads x T x head_dim).
struct KeysAndValues {
    torch::Tensor keys, values;
};

/// What tokens behind it see of a beginning of T tokens.
struct Prefix {
    std::int64_t tokens = 0;            ///< T
    std::vector<KeysAndValues> blocks;  ///< one a block
};

/// One pass over `tokens`, at least one. In the last block only keys and values are computed.
Prefix read_prefix(const Decoder& decoder, std::span<const std::int32_t> tokens);

/// Log probability (R) of every label of the batch, in the order of its predictors, given the tokens before it: those
/// of its sample, and before these the prefix (null: none). Positions go on behind the prefix. `batch` is packed with
/// Reach::last_predictor; logits are computed at predictors alone, in chunks of bounded memory.
torch::Tensor label_log_probabilities(const Decoder& decoder, const Prefix* prefix, const LossBatch& batch);

}  // namespace idistill::model
