#pragma once
// Random linear sketches of per-sample gradients, from layer inputs and output gradients: E <sketch g, sketch h> = <g,
// h>.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "idistill/influence/gradient/settings.hpp"
#include "idistill/model/model_config.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// A sketch of the concatenated gradients of the chosen layers; random numbers keyed by (seed, layer name, row,
/// column).
class GradientSketch {
public:
    virtual ~GradientSketch() = default;
    /// Numbers per sample, k.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// sketches (n x k) += contribution of this layer.
    virtual void accumulate(const model::LayerTap& tap, torch::Tensor& sketches) const = 0;
    /// The same from whole gradients of some samples, (m x outputs x inputs): for those that are not a sum over a few
    /// rows, as a o G. `sketches` are these samples' (m x k).
    virtual void accumulate_dense(std::size_t layer, const torch::Tensor& gradients, torch::Tensor sketches) const = 0;
    /// Lengths of the parts of a sketch, each of which errs on inner products as a dense one of so many numbers:
    /// variance |g|^2 |h|^2 / length of the parts of g and h. Empty: exact; nothing where norms alone do not tell.
    [[nodiscard]] virtual std::optional<std::vector<std::int64_t>> dense_parts() const = 0;
    /// Whole gradients of `bytes` each that accumulate_dense should be given at a time: more than one only where
    /// samples share work.
    [[nodiscard]] virtual std::int64_t samples_at_once([[maybe_unused]] std::int64_t bytes) const { return 1; }
};

/// (n x parts) squared norms, fp64, of the dense_parts of rows (n x k).
torch::Tensor part_norms(const torch::Tensor& rows, const std::vector<std::int64_t>& parts);

/// (n) standard deviation, fp64, that a sketch of these dense_parts adds to inner products of `rows` (n x k) with
/// samples whose part_norms are `samples` (parts) on average.
torch::Tensor expected_errors(const torch::Tensor& rows, const torch::Tensor& samples,
                              const std::vector<std::int64_t>& parts);

/// `kind`:
/// - tensor: per layer a sum over the gradient's rows y x' of the convolutions of count sketches of y and x, held as
/// its
///   spectrum; G is never formed, and inner products err as those of a dense sketch of this length (Pham and Pagh, KDD
///   2013).
/// - kronecker: per layer the side x side matrix L' G R, L and R Gaussian with variance 1/side; G is never formed
///   (LoGra's form, arXiv 2405.13954, with random instead of trained projections).
/// - hadamard: per layer sqrt(P/k_l) times k_l random entries of the orthonormal Hadamard transform of the sign-flipped
///   gradient, padded to P, a power of two (ID's Had1GProjector, scaled by its padded length so that norms are kept).
/// - rademacher: R g / sqrt(k), R of random signs (ID's default).
/// - none: the gradient itself.
/// `width` is k of the plan. Throws Error(usage) when a layer is too small for its part of a hadamard sketch, or the
/// part would be empty.
std::unique_ptr<GradientSketch> make_sketch(SketchKind kind, const std::vector<model::LinearLayer>& layers,
                                            std::int64_t width, std::uint64_t seed,
                                            const torch::TensorOptions& options);

}  // namespace idistill::influence
