#pragma once
// The serial half of a selection: merged lists served turn by turn. Runs on the root only.

#include <cstdint>
#include <span>
#include <vector>

#include "heads.hpp"
#include "idistill/selection/selection.hpp"

namespace idistill::selection {

/// Merges the ranks' heads of one list. Beyond the best last candidate of a truncated head the order is not known: the
/// merged head is cut there, and truncated.
[[nodiscard]] Head merge_heads(std::span<const Head> parts);

/// What limits the picks that are still to come.
struct Limits {
    std::int64_t samples = 0;              ///< at most this many more; never more than there are candidates left
    std::int64_t tokens = 0;               ///< at most this many more tokens
    std::vector<std::int64_t> per_source;  ///< at most this many more of each source
};

struct Served {
    std::vector<std::int64_t> rows;  ///< picked, in order
    bool finished = false;           ///< the limits are used up; otherwise a list ran out that goes on below its head
};

/// Serves the lists in their order again and again, starting with list `turn`: each takes its best row that is not
/// taken and whose source has room.
[[nodiscard]] Served serve(std::span<const Head> lists, std::size_t turn, Limits limits, const Request& request);

}  // namespace idistill::selection
