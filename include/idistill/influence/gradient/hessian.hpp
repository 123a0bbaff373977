#pragma once
// Curvature of the target loss: exact Hessian-vector products over the chosen layers, and from them a decomposition of
// low rank.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// sums += sum_i scale_i H_i v over all samples (each with a label): H_i the Hessian of sample i's loss, the mean over
/// its label tokens, in the chosen layers' weights. v and sums: one tensor (outputs x inputs) a chosen layer; scale
/// (n). By the gradient pass on dual numbers (model::loss_gradient_tangents), in micro-batches of at most
/// `batch_tokens` used tokens.
void add_hessian_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                          const data::Samples& samples, const torch::Tensor& scale, const std::vector<torch::Tensor>& v,
                          std::int64_t batch_tokens, std::vector<torch::Tensor>& sums);

/// The Ritz pairs of a symmetric operator in a Krylov space, in descending |value|.
struct RitzPairs {
    std::vector<double> value;  ///< (r) mu; 0 where the Krylov space was smaller than r
    torch::Tensor vector;       ///< (r x d) orthonormal v, zeros where the value is 0 for this reason
};

/// H ~ sum_j mu_j v_j v_j' after `count` steps of the Lanczos iteration with full reorthogonalisation: `product`(step,
/// v) is H v, v of unit length. Vectors are in the type of `start` (d), its coefficients in fp64. The pairs at the ends
/// of the spectrum are those of H; together they are the best approximation (Rayleigh-Ritz) in the space of start, H
/// start, ... The same bits for the same products. Holds r vectors and what a product needs. A space that is invariant
/// before the last step ends the iteration. `start` is overwritten.
RitzPairs lanczos(const std::function<torch::Tensor(std::int64_t step, const torch::Tensor& v)>& product,
                  torch::Tensor start, std::int64_t count);

/// x.y of two vectors (d) of one type, in fp64, block by block.
double product_of(const torch::Tensor& x, const torch::Tensor& y);

}  // namespace idistill::influence
