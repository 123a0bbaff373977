#pragma once
// What a network learnt of pairs of the pool's samples, as a similarity that a selection compares them by.

#include <memory>

#include "idistill/propagation/influence_network.hpp"
#include "idistill/selection/similarity.hpp"

namespace idistill::propagation {

struct LabelRange {
    float least = 0.0F, largest = 0.0F;  ///< of all that are finite
};

/// Of a network of one hidden layer and no residual, which outlives it; factors of a sample: its left and right halves.
/// A candidate is the first of a pair. The least label counts as none, the largest as full.
std::unique_ptr<selection::Similarity> pair_similarity(const InfluenceNetwork& network, const LabelRange& labels,
                                                       selection::ReadFactors read);

}  // namespace idistill::propagation
