#pragma once
// How far a model is from certain of answers, alone and behind an example (DELIFT; NN-CIFT, arXiv
// 2502.09969, section 3).

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "idistill/data/rows.hpp"
#include "idistill/model/continuation.hpp"
#include "idistill/model/decoder.hpp"

namespace idistill::influence {

/// d (n, fp64) of the samples, each with a label: |p - 1| / sqrt(T) over a sample's T label tokens, p_t the probability
/// of token t given the tokens before it - those of the sample, and before these the prefix (null: none). In
/// micro-batches of at most `batch_tokens` tokens that are read, or one sample.
torch::Tensor label_distances(const model::Decoder& decoder, const model::Prefix* prefix, const data::Samples& samples,
                              std::int64_t batch_tokens);

/// The samples from their token first[i] on.
data::Samples from_token(const data::Samples& samples, const std::vector<std::int32_t>& first);

}  // namespace idistill::influence
