#pragma once
// A sparse similarity: of every represented sample only its nearest candidates, found without comparing all pairs.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/selection/similarity.hpp"
#include "kept_gains.hpp"
#include "pool_objective.hpp"

namespace idistill::selection {

/// Cells that a represented sample looks for its neighbours in.
inline constexpr std::size_t cells_searched = 8;

/// The neighbours of the samples that this rank represents, by candidate.
struct Neighbours {
    std::vector<std::int64_t> start;         ///< (pool rows + 1) of a row's entries
    std::vector<KeptSimilarity> similarity;  ///< places ascending within a row

    [[nodiscard]] std::span<const KeptSimilarity> of(std::int64_t row) const {
        const auto i = static_cast<std::size_t>(row);
        return std::span(similarity)
            .subspan(static_cast<std::size_t>(start[i]), static_cast<std::size_t>(start[i + 1] - start[i]));
    }
};

/// Numbers that a rank holds while it searches, and of what it finds, per represented sample; for plans.
double neighbour_bytes(std::int64_t width, std::int64_t count);

/// Collective. The square root of the candidates' number of them, drawn by `seed`, are pivots; every candidate belongs
/// to the cell of the pivot that represents it best. A represented sample compares itself with the candidates of the
/// cells_searched cells whose pivots represent it best, and keeps the `count` of largest similarity above none (ties:
/// lower row). `candidate` (pool rows) marks candidates, which are represented as well. The same for any rank count.
Neighbours find_neighbours(comm::Communicator& comm, const Similarity& similarity, const RepresentedSamples& samples,
                           std::span<const std::uint8_t> candidate, std::int64_t count, std::uint64_t seed);

}  // namespace idistill::selection
