#pragma once
// What a network learnt of pairs of the pool's samples, as a similarity that a selection compares them by.

#include <memory>

#include "idistill/propagation/influence_network.hpp"
#include "idistill/selection/similarity.hpp"

namespace idistill::propagation {

/// Of a network of one hidden layer and no residual, which outlives it; factors of a sample: its left and right halves.
/// A candidate is the first of a pair. `none`: the influence that counts as none.
std::unique_ptr<selection::Similarity> pair_similarity(const InfluenceNetwork& network, float none,
                                                       selection::ReadFactors read);

}  // namespace idistill::propagation
