#pragma once
// What exact influence by gradients costs, from lengths alone (model/cost.hpp).

#include <cstdint>
#include <vector>

#include "idistill/influence/gradient/settings.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/model/cost.hpp"

namespace idistill::influence {

/// What is sketched or multiplied with directions: a gradient, or with the optimizer's factors a (--optimizer; of pool
/// samples, never of targets), or the step of Adam that it is a part of.
enum class GradientKind : std::uint8_t { plain, preconditioned, adam_step };

/// FLOPs of a layer's tensor sketch of length k from its gradient's `rows` rows: count sketches 2 r (I + O), spectra
/// 5 r k log2 k, products 4 r k.
double tensor_flops(const model::LinearLayer& layer, double rows, double length);

/// Of an entry of a step of Adam from its gradient: square, product and sum, root, sum; product, sum, quotient.
inline constexpr double adam_flops = 8.0;

class GradientCost {
public:
    /// Without a sketch (contraction) `shape` is empty.
    GradientCost(const model::ModelConfig& model, std::vector<model::LinearLayer> chosen, SketchKind sketch,
                 SketchShape shape);

    /// Gradient pass with sketch and norm, r rows of a layer:
    ///  sketch    tensor as above; kronecker of side s: 2 r s (I + O) + 2 r s^2; else the gradient 2 r I O and:
    ///            hadamard p log2 p (p: I O rounded up to a power of two), rademacher 2 k I O, none 0
    ///  norm      tensor, kronecker: the cheaper of r (r + 1) (I + O) (products of all pairs of rows) and 2 r I O; else
    ///  2 I O
    /// Preconditioned, these need the gradient too: 2 r I O, norm 2 I O, and after it tensor 2 I O + 2.5 k log2 k,
    /// kronecker 2 s I O + 2 s^2 O. A step of Adam takes 8 I O more, a sample's gradient being one of many
    /// (adam_flops).
    [[nodiscard]] double gradient(std::int64_t tokens, std::int64_t labels,
                                  GradientKind kind = GradientKind::plain) const;

    /// The same pass with exact products with `directions` gradients in place of a sketch: a layer, with its norm,
    /// costs the cheaper of directions * 2 r I O + norm and 2 r I O + (directions + 1) 2 I O; preconditioned the
    /// latter.
    [[nodiscard]] double contraction(std::int64_t tokens, std::int64_t labels, std::int64_t directions,
                                     GradientKind kind = GradientKind::plain) const;

    /// The same pass when only the sum of many samples' gradients is wanted: 2 r I O a chosen layer.
    [[nodiscard]] double gradient_sum(std::int64_t tokens, std::int64_t labels) const;

    /// The same pass on dual numbers, forward over reverse, for the Hessian's product with one direction: every product
    /// of the gradient pass twice, but once below the chosen layers, which the direction does not change, and a chosen
    /// layer 2 r I O four times (with the direction forward and backward, and two for the sum).
    [[nodiscard]] double hessian_product(std::int64_t tokens, std::int64_t labels) const;

    /// One sketch with `columns` others: 2 k a column.
    [[nodiscard]] double scores(std::int64_t columns) const;

private:
    [[nodiscard]] double sketch_and_norm(const model::LinearLayer& layer, double rows, GradientKind kind) const;

    model::PassCost passes_;
    std::vector<model::LinearLayer> chosen_;
    SketchKind sketch_;
    SketchShape shape_;
};

}  // namespace idistill::influence
