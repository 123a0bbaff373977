#pragma once
// Cheap embeddings of every sample, that carry influence from landmarks to the pool (ID section 4.3, METHOD.md section
// 2).

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "idistill/data/token_file.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::embedding {

class Embedding {
public:
    virtual ~Embedding() = default;
    /// Numbers per sample, e.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// (n x e) fp32 of all samples, in their order, computed in micro-batches of at most `batch_tokens` tokens. Samples
    /// without tokens get zeros.
    [[nodiscard]] virtual torch::Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const = 0;
};

struct JvpSettings {
    std::int64_t blocks = 4;    ///< B
    std::int64_t tangents = 2;  ///< K
    std::int64_t rank = 8;      ///< r of every direction; 0: dense, as published
    std::uint64_t seed = 43;
};

/// K random directions over all parameters of the first B blocks and the token embedding: dense ones have standard
/// normal entries, low rank ones are A B' / sqrt(r) with standard normal A and B (the same variance an entry). Norm
/// weights and biases are always dense.
model::Directions random_directions(const model::Decoder& decoder, const JvpSettings& settings);

/// Tangents of the final-normed hidden state at the last token, concatenated; projected by random signs when longer
/// than `width`.
std::unique_ptr<Embedding> make_jvp_embedding(const model::Decoder& decoder, const JvpSettings& settings,
                                              std::int64_t width);

/// Mean over all tokens and last token of the final-normed hidden state behind the first `blocks` blocks, concatenated;
/// projected likewise.
std::unique_ptr<Embedding> make_hidden_embedding(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed,
                                                 std::int64_t width);

}  // namespace idistill::embedding
