#pragma once
// Facility locations over the columns of influence: what is represented are the targets.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/rows.hpp"
#include "idistill/selection/selector.hpp"
#include "objective.hpp"

namespace idistill::selection {

/// Influence on the columns, min-max scaled to 0 .. 1 over the samples that can be used. Equal influences come out as
/// 0.
class ScaledInfluence {
public:
    /// Collective. `usable` (pool rows): cleared on every rank where influence is not finite.
    ScaledInfluence(comm::Communicator& comm, const InfluenceRows& influence, std::vector<std::uint8_t>& usable);

    [[nodiscard]] std::int64_t columns() const { return influence_.columns; }
    /// (count x columns) of rows from `first` on; of any rank. Rows that cannot be used come out as anything.
    void read(std::int64_t first, std::int64_t count, std::span<float> out) const;
    /// Largest of each of these rows, 0 where it cannot be used.
    [[nodiscard]] std::vector<float> largest(data::RowRange rows, std::span<const std::uint8_t> usable) const;

private:
    const InfluenceRows& influence_;
    float lowest_ = 0.0F, scale_ = 0.0F;
};

/// f(A) = sum over columns t of max(max over A of P_jt - cover_t, 0) + eta sum over A of max over t of P_jt, with
/// cover_t nu times the largest influence of what is held. A gain is computed by the rank of the candidate.
std::unique_ptr<Objective> column_objective(comm::Communicator& comm, const ScaledInfluence& influence,
                                            std::int64_t pool_rows, std::vector<float> cover, double eta,
                                            double kept_bytes);

/// nu times the largest influence of these rows of the pool on every column (columns); 0 without any. Collective.
std::vector<float> covered_by(comm::Communicator& comm, const ScaledInfluence& influence,
                              std::span<const std::uint8_t> usable, std::span<const std::int64_t> held, double nu);

}  // namespace idistill::selection
