#pragma once
// What the rows of all ranks give together: sums that do not depend on how many ranks there are, and exact order
// statistics.

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

    /// Collective: `width` sums over the rows of all ranks, the same on each; add(i, sums) adds what local row i gives.
    template <class Add>
    [[nodiscard]] std::vector<double> operator()(std::size_t width, const Add& add) const {
        return of_blocks(width, [&](std::size_t block, std::span<double> sums) {
            for (std::size_t i = border_[block]; i < border_[block + 1]; ++i) add(i, sums);
        });
    }

    /// As above over the local rows at `places`, ascending, alone: add(a, sums) adds what the a-th of them gives.
    template <class Add>
    [[nodiscard]] std::vector<double> operator()(std::span<const std::size_t> places, std::size_t width,
                                                 const Add& add) const {
        std::size_t a = 0;
        return of_blocks(width, [&](std::size_t block, std::span<double> sums) {
            for (; a < places.size() && places[a] < border_[block + 1]; ++a) add(a, sums);
        });
    }

    /// As above, one number of every local row.
    [[nodiscard]] double sum(std::span<const double> values) const {
        return (*this)(1, [&](std::size_t i, std::span<double> sums) { sums[0] += values[i]; }).front();
    }

    [[nodiscard]] comm::Communicator& communicator() const noexcept { return *communicator_; }

private:
    [[nodiscard]] std::vector<double> of_blocks(
        std::size_t width, const std::function<void(std::size_t block, std::span<double> sums)>& add) const;

    comm::Communicator* communicator_;
    std::vector<std::size_t> border_;  ///< local rows [border_[b], border_[b + 1]) are those of a block
};

/// The k-th largest (k from 1, at most all ranks' values together) of finite values; -0 counts as 0. Collective.
double nth_largest(comm::Communicator& communicator, std::span<const double> values, std::int64_t k);

/// How many values of all ranks are above, and at least, `limit`. Collective.
struct Above {
    std::int64_t strictly = 0;
    std::int64_t at_least = 0;
};
Above count_above(comm::Communicator& communicator, std::span<const double> values, double limit);

/// Values at these places.
std::vector<double> values_at(std::span<const double> values, std::span<const std::size_t> places);

/// Places of this rank's values among the k largest of all ranks, of those at the places `among`, ascending, alone; of
/// equal values those of lower ranks, and lower places, come first. Collective.
std::vector<std::size_t> largest_places(comm::Communicator& communicator, std::span<const double> values,
                                        std::span<const std::size_t> among, std::int64_t k);

}  // namespace idistill::selection
