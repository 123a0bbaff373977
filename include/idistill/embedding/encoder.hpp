#pragma once
// Cheap embeddings of every sample, that carry influence from landmarks to the pool (JVP embeddings: Influence
// Distillation, arXiv 2505.19051, section 4.3).

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/model_config.hpp"

namespace idistill::embedding {

class Encoder {
public:
    virtual ~Encoder() = default;
    /// Numbers per sample, e.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// (n x e) fp32 of all samples, in their order, computed in micro-batches of at most `batch_tokens` tokens. Samples
    /// without tokens get zeros.
    [[nodiscard]] virtual torch::Tensor operator()(const data::Samples& samples, std::int64_t batch_tokens) const = 0;
};

/// Tangents of the final-normed hidden state at the last token behind the first `blocks` blocks, concatenated;
/// projected by random signs when longer than `width`.
std::unique_ptr<Encoder> make_jvp_encoder(const model::Decoder& decoder, std::int64_t blocks,
                                          const JvpSettings& settings, std::uint64_t seed, std::int64_t width);

/// Mean over all tokens and last token of the final-normed hidden state behind the first `blocks` blocks, concatenated;
/// projected likewise.
std::unique_ptr<Encoder> make_hidden_encoder(const model::Decoder& decoder, std::int64_t blocks, std::uint64_t seed,
                                             std::int64_t width);

/// Seed of the tail's sketch. The labels that propagation learns hold the noise of their own sketch: random numbers in
/// common would let the embedding predict that noise, and leave-one-out call it skill.
constexpr std::uint64_t tail_sketch_seed(std::uint64_t seed) { return seed + 0x9e3779b97f4a7c15ULL; }

struct GradientTailSettings {
    std::int64_t state_width = 0;   ///< numbers of the hidden state, projected likewise when it has more; 0: none
    std::int64_t sketch_width = 0;  ///< numbers of the sketch: as many of every layer
    std::uint64_t seed = 43;
};

/// Final-normed hidden state of the whole model at the last token, and a tensor sketch of the loss gradients of
/// `layers`, side by side. Each is scaled to length 1, and so counts by its direction, as influence does: in the
/// squared distance of two samples both have the same largest share, whatever the model's scale and the sample's loss.
/// One forward pass and a backward pass down to the lowest of the layers. Samples without labels get zeros, too.
std::unique_ptr<Encoder> make_gradient_tail_encoder(const model::Decoder& decoder,
                                                    const std::vector<model::LinearLayer>& layers,
                                                    const GradientTailSettings& settings);

}  // namespace idistill::embedding
