#pragma once
// FLOPs that the mathematics needs, from lengths alone (multiply and add are two): for planning, progress and the
// benchmark.

#include <cstdint>
#include <vector>

#include "idistill/config/model_config.hpp"
#include "idistill/config/settings.hpp"

namespace idistill::config {

/// Size of one gradient sketch.
struct SketchShape {
    std::int64_t side = 0;   ///< kronecker: every layer's gradient becomes side x side; otherwise 0
    std::int64_t width = 0;  ///< k, all layers together
};

/// Kronecker and hadamard share sketch_dim out over the layers. Throws Error(usage) for one that leaves a layer without
/// a number, or gives one more than padded_entries (hadamard).
void check_sketch_dim(const std::string& sketch, std::int64_t sketch_dim, const std::vector<LinearLayer>& chosen);

/// Held at a time by the rademacher sketch, of dense gradients and of rows of signs; one of each at least.
inline constexpr std::int64_t rademacher_gradient_bytes = std::int64_t{256} << 20;
inline constexpr std::int64_t rademacher_sign_bytes = std::int64_t{64} << 20;

/// kronecker: side = floor(sqrt(sketch_dim / layers)), at most the smallest dimension of a layer, width layers *
/// side^2; hadamard, rademacher: sketch_dim; none: every entry of the chosen layers.
/// Throws as check_sketch_dim.
SketchShape sketch_shape(const Settings& settings, const std::vector<LinearLayer>& chosen);

/// Entries of a layer's gradient, padded to a power of two: what a hadamard sketch transforms.
std::int64_t padded_entries(const LinearLayer& layer);

/// Numbers of an embedding before its projection: tangents * hidden (jvp) or 2 * hidden (hidden: mean and last).
std::int64_t whole_embedding_width(const Settings& settings, const ModelConfig& model);

/// e: the same, at most embedding_dim.
std::int64_t embedding_width(const Settings& settings, const ModelConfig& model);

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

    /// One sketch with the sketches of all targets: 2 k M.
    [[nodiscard]] double scores(std::int64_t targets) const;

    /// Embedding pass over all tokens of a sample, B blocks.
    ///  jvp     K tangents beside the primal. A layer: 2 (1 + K) r I O, directions of rank R 2 K r R (I + O) or dense 2
    ///  K r I O; attention
    ///          4 D a pair and 8 D a pair and tangent; r = T, in block B: 1 (k and v: T). Directions of the token
    ///          embedding 2 K T R d (dense: look-up). Projection, if any: 2 K d e.
    ///  hidden  forward of B blocks; projection, if any: 4 d e.
    [[nodiscard]] double embedding(std::int64_t tokens) const;

    /// Kernel row and its product with the coefficients: 2 e L + 2 L C, C columns and the norm's.
    [[nodiscard]] double propagation(std::int64_t landmarks, std::int64_t columns) const;

private:
    [[nodiscard]] double passes(double tokens, double labels) const;
    [[nodiscard]] double rows_of(const LinearLayer& layer, double tokens, double labels) const;
    [[nodiscard]] double sketch_and_norm(const LinearLayer& layer, double rows, GradientKind kind) const;

    ModelConfig model_;
    Settings settings_;
    std::vector<LinearLayer> all_;
    std::vector<LinearLayer> chosen_;
    SketchShape sketch_;
    std::int64_t embedding_width_;
};

}  // namespace idistill::config
