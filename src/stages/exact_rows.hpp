#pragma once
// Rows of a unit as the state keeps them.

#include "run.hpp"

namespace idistill::stages {

/// Exact influence of rows of the pool.
influence::Rows exact_rows(const Run& run, const std::vector<std::int64_t>& rows);

/// Places in the unit of these rows, which are in it.
std::vector<std::int64_t> places_in(const data::WorkUnit& unit, const std::vector<std::int64_t>& rows);

/// The datasets of a unit of so many rows, NaN where nothing is put: also in the room that a row has for the columns of
/// dropped targets, at its end.
class UnitRows {
public:
    UnitRows(const influence::Layout& layout, std::int64_t rows);

    /// values (n) are those of these places of the unit.
    void put(const std::vector<std::int64_t>& places, const influence::Rows& values);
    /// In the order of Layout::state_columns().
    [[nodiscard]] std::vector<torch::Tensor> columns() const;

private:
    torch::Tensor logarithmic_;  ///< undefined without any
    torch::Tensor products_;
};

}  // namespace idistill::stages
