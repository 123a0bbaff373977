#pragma once
// Sums over the rows of all ranks that do not depend on how many ranks there are.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"

namespace idistill::selection {

/// The rows of this rank cut at the borders of fixed blocks of the pool. A sum is formed within a block in row order,
/// gathered, and added in block order; blocks without rows add nothing.
class BlockSums {
public:
    /// `row`: this rank's global rows, ascending. Collective: throws Error(internal_error) when ranks' rows are not in
    /// order or two ranks have rows of one block.
    BlockSums(comm::Communicator& communicator, std::int64_t block_rows, std::span<const std::int64_t> row);

    /// Adds to `sums` what the local rows [begin, end) of one block give, in row order.
    using Add = std::function<void(std::size_t begin, std::size_t end, std::span<double> sums)>;

    /// Collective: `sums` over the rows of all ranks, the same on each.
    void operator()(const Add& add, std::span<double> sums) const;

    /// As above, one number of every local row.
    [[nodiscard]] double sum(std::span<const double> values) const;

    /// How many rows this rank has.
    [[nodiscard]] std::size_t rows() const noexcept { return border_.back(); }

    [[nodiscard]] comm::Communicator& communicator() const noexcept { return *communicator_; }

private:
    comm::Communicator* communicator_;
    std::vector<std::size_t> border_;  ///< local rows [border_[b], border_[b + 1]) are those of a block
};

}  // namespace idistill::selection
