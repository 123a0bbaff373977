#pragma once
// FLOPs that the mathematics needs, from lengths alone (multiply and add are two): for planning, progress and the
// benchmark.

#include <cstdint>
#include <vector>

#include "idistill/config/embedding_parts.hpp"
#include "idistill/config/model_config.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/config/sketch_shape.hpp"

namespace idistill::config {

/// What is sketched or multiplied with directions: a gradient, or with the optimizer's factors a (--optimizer; of pool
/// samples, never of targets).
enum class GradientKind { plain, preconditioned };

/// Counts matrix products only: norms, softmax, activations, rotations and look-ups are a few operations per number and
/// left out. Symbols: T tokens, n label tokens, I and O inputs and outputs of a layer, D = heads * head_dim, d hidden,
/// V vocabulary.
class CostModel {
public:
    CostModel(const ModelConfig& model, const Settings& settings);

    /// Gradient pass with sketch and norm. `tokens`: the inputs that matter, which end before the last label
    /// (last_label of the corpus index); `labels` of them predict a label. In the last block only these have outputs
    /// that count (k and v: all); they are taken to be the last `labels` positions.
    ///  forward   2 r I O a layer (r: its rows, T or n); attention 4 D a pair of query and key; head 2 n V d
    ///  backward  of activations: the same once more for head and linear layers, attention 8 D a pair; above the lowest
    ///  chosen block
    ///            whole, in it only what the chosen layers need, below it nothing
    ///  sketch    kronecker 2 r s (I + O) + 2 r s^2; else the gradient 2 r I O and: hadamard p log2 p (p: I O rounded
    ///  up to a power
    ///            of two), rademacher 2 k I O, none 0
    ///  norm      kronecker: the cheaper of r (r + 1) (I + O) (products of all pairs of rows) and 2 r I O; else 2 I O
    /// Preconditioned, kronecker needs the gradient too: 2 r I O, 2 s I O + 2 s^2 O after it, norm 2 I O.
    [[nodiscard]] double gradient(std::int64_t tokens, std::int64_t labels,
                                  GradientKind kind = GradientKind::plain) const;

    /// The same pass with exact products with `directions` gradients in place of a sketch (`--columns tasks`, no
    /// propagation): a layer, with its norm, costs the cheaper of directions * 2 r I O + norm and 2 r I O + (directions
    /// + 1) 2 I O; preconditioned the latter.
    [[nodiscard]] double contraction(std::int64_t tokens, std::int64_t labels, std::int64_t directions,
                                     GradientKind kind = GradientKind::plain) const;

    /// The same pass when only the sum of many samples' gradients is wanted: 2 r I O a chosen layer.
    [[nodiscard]] double gradient_sum(std::int64_t tokens, std::int64_t labels) const;

    /// The same pass on dual numbers, forward over reverse, for the Hessian's product with one direction: every product
    /// of the gradient pass twice, but once below the chosen layers, which the direction does not change, and a chosen
    /// layer 2 r I O four times (with the direction forward and backward, and two for the sum).
    [[nodiscard]] double hessian_product(std::int64_t tokens, std::int64_t labels) const;

    /// One sketch with the sketches of all targets: 2 k M.
    [[nodiscard]] double scores(std::int64_t targets) const;

    /// Embedding passes over all tokens of a sample, the sum over the settings' embeddings. B blocks:
    ///  jvp     K tangents beside the primal. A layer: 2 (1 + K) r I O, directions of rank R 2 K r R (I + O) or dense 2
    ///  K r I O; attention
    ///          4 D a pair and 8 D a pair and tangent; r = T, in block B: 1 (k and v: T). Directions of the token
    ///          embedding 2 K T R d (dense: look-up). Projection, if any: 2 K d e.
    ///  hidden  forward of B blocks; projection, if any: 4 d e.
    ///  gradient-tail  the gradient pass above with the tail's layers as the chosen ones and kronecker, over all T
    ///          tokens, without norms; in the last block one row more, the last token's. Projection, if any: 2 d e.
    ///  gradient  the same without states; a file costs nothing.
    [[nodiscard]] double embedding(std::int64_t tokens, std::int64_t labels) const;
    [[nodiscard]] double embedding(const EmbeddingShape& shape, std::int64_t tokens, std::int64_t labels) const;

    /// The settings' embeddings; none without propagation.
    [[nodiscard]] const std::vector<EmbeddingShape>& embeddings() const noexcept { return embeddings_; }

    /// Kernel row and its product with the coefficients: 2 e L + 2 L C, C columns and the norm's.
    [[nodiscard]] double propagation(std::int64_t landmarks, std::int64_t columns) const;
    /// The same from embeddings of `width` numbers together.
    [[nodiscard]] static double propagation(std::int64_t landmarks, std::int64_t columns, std::int64_t width);

private:
    /// Forward and backward for activations of `chosen`; the last block at `outputs` rows.
    [[nodiscard]] double passes(const std::vector<LinearLayer>& chosen, double tokens, double outputs,
                                double labels) const;
    [[nodiscard]] double forward_below_chosen(double tokens) const;
    [[nodiscard]] double states(double tokens, std::int64_t tangent_count) const;
    [[nodiscard]] double rows_of(const LinearLayer& layer, double tokens, double outputs) const;
    [[nodiscard]] double sketch_and_norm(const LinearLayer& layer, double rows, GradientKind kind) const;

    ModelConfig model_;
    Settings settings_;
    std::vector<LinearLayer> all_;
    std::vector<LinearLayer> chosen_;
    SketchShape sketch_;
    std::vector<EmbeddingShape> embeddings_;
};

}  // namespace idistill::config
