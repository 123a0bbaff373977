#pragma once
// Facility locations over the pool itself, by a similarity of its samples.

#include <memory>
#include <optional>
#include <vector>

#include "blocks.hpp"
#include "idistill/comm/communicator.hpp"
#include "idistill/selection/similarity.hpp"
#include "kept_gains.hpp"
#include "objective.hpp"

namespace idistill::selection {

/// What bounds the cover of represented samples. A cover is a similarity.
struct CoverLimits {
    std::vector<float> held;   ///< (h x F) factors of what one already has
    double held_weight = 1.0;  ///< nu: a sample is covered from the start by nu times its similarity to these
    /// (rows of this rank) above none: a sample is covered at most so far; empty: without limit
    std::vector<float> most;
};

/// The samples of this rank's blocks that are represented: their factors in tiles, and how far they are covered.
class RepresentedSamples {
public:
    /// Collective. `usable` (pool rows): those to represent; cleared on every rank where factors are not finite.
    RepresentedSamples(comm::Communicator& comm, const Similarity& similarity, std::vector<std::uint8_t>& usable,
                       const CoverLimits& limits);

    [[nodiscard]] const CoverBlocks& blocks() const { return blocks_; }
    [[nodiscard]] data::RowRange rows() const { return mine_; }
    [[nodiscard]] std::size_t first_block() const { return static_cast<std::size_t>(mine_.first / blocks_.rows()); }
    [[nodiscard]] std::size_t tiles() const { return cover_.size() / static_cast<std::size_t>(similarity_lanes); }
    [[nodiscard]] std::span<const float> tile(std::size_t number) const {
        return std::span(factors_).subspan(number * tile_numbers_, tile_numbers_);
    }
    /// By place: row less the first of this rank; infinite where nothing is represented.
    [[nodiscard]] std::span<const float> cover() const { return cover_; }
    [[nodiscard]] std::span<const float> cap() const { return cap_; }
    /// What counts of a similarity at a place.
    [[nodiscard]] float reached(std::size_t place, float similarity) const { return std::min(similarity, cap_[place]); }
    void cover_to(std::size_t place, float similarity) {
        cover_[place] = std::max(cover_[place], reached(place, similarity));
    }
    /// Factors are no longer needed.
    void drop_factors() { std::vector<float>().swap(factors_); }

private:
    /// `shows`: this rank shows the progress of what takes long.
    void cover_by_held(const Similarity& similarity, const CoverLimits& limits, bool shows);

    CoverBlocks blocks_;
    data::RowRange mine_;
    std::size_t tile_numbers_;
    std::vector<float> factors_;
    std::vector<float> cover_, cap_;
};

/// Bytes of similarities on their way to being kept, with so many represented samples on a rank: of as many candidates
/// at a time as 64 MiB hold, and of one at least.
double being_kept_bytes(std::int64_t rows);

/// f(A) = sum over represented samples i of max(min(max over A of s_ij, cap_i) - cover_i, 0), cover before A. The
/// similarities of a candidate are computed when they are asked for; what of them can still count is kept in up to
/// `kept_bytes` a rank.
std::unique_ptr<Objective> pool_objective(comm::Communicator& comm, const Similarity& similarity,
                                          RepresentedSamples samples, double kept_bytes);

}  // namespace idistill::selection
