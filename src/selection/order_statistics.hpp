#pragma once
// Exact order statistics over the rows of all ranks.

#include <cstdint>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"

namespace idistill::selection {

/// The k-th largest (k from 1, at most all ranks' values together) of finite values; -0 counts as 0. Collective.
double nth_largest(comm::Communicator& communicator, std::span<const double> values, std::int64_t k);

/// How many values of all ranks are above, and at least, `limit`. Collective.
struct Above {
    std::int64_t strictly = 0;
    std::int64_t at_least = 0;
};
Above count_above(comm::Communicator& communicator, std::span<const double> values, double limit);

/// Places of this rank's values among the k largest of all ranks, ascending; of equal values those of lower ranks, and
/// lower places, come first. Collective.
std::vector<std::size_t> largest_places(comm::Communicator& communicator, std::span<const double> values,
                                        std::int64_t k);

/// Values at these places.
std::vector<double> values_at(std::span<const double> values, std::span<const std::size_t> places);

/// As above of the values at the places `among`, ascending, alone; of k = 0 none.
std::vector<std::size_t> largest_places(comm::Communicator& communicator, std::span<const double> values,
                                        std::span<const std::size_t> among, std::int64_t k);

}  // namespace idistill::selection
