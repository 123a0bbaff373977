#pragma once
// The best few candidates of every list, found in one pass over rows in ascending order; and the serial half of a
// selection: merged lists served turn by turn, on the root only.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "idistill/selection/selection.hpp"
#include "limits.hpp"

namespace idistill::selection {

struct Candidate {
    double value = 0.0;
    std::int64_t row = 0;  ///< global
};

/// Ranking of every list: value descending, ties by ascending row.
[[nodiscard]] inline bool ranks_before(const Candidate& a, const Candidate& b) noexcept {
    return a.value != b.value ? a.value > b.value : a.row < b.row;
}

/// The head of one list, and whether the list goes on below it.
struct Head {
    std::vector<Candidate> best;  ///< ranked
    bool truncated = false;
};

/// Keeps the `depth` best of every list in at most twice the space. Rows must be offered in ascending order: a later
/// row of equal value never displaces an earlier one, so one compare with the list's threshold decides nearly every
/// offer.
class Heads {
public:
    Heads(std::size_t lists, std::size_t depth)
        : depth_(depth), thresholds_(lists, -std::numeric_limits<double>::infinity()), heads_(lists) {}

    void offer(std::size_t list, double value, std::int64_t row) {
        if (value > thresholds_[list]) keep(list, {value, row});
    }

    /// Ranks and cuts every head; the object is empty afterwards.
    [[nodiscard]] std::vector<Head> take();

private:
    void keep(std::size_t list, Candidate candidate);
    void cut(std::size_t list);

    std::size_t depth_;
    std::vector<double> thresholds_;
    std::vector<Head> heads_;
};

/// Merges the ranks' heads of one list. Beyond the best last candidate of a truncated head the order is not known: the
/// merged head is cut there, and truncated.
[[nodiscard]] Head merge_heads(std::span<const Head> parts);

struct Served {
    std::vector<std::int64_t> rows;  ///< picked, in order
    bool finished = false;           ///< the limits are used up; otherwise a list ran out that goes on below its head
};

/// Serves the lists in their order again and again, starting with list `turn`: each takes its best row that is not
/// taken and whose source has room.
[[nodiscard]] Served serve(std::span<const Head> lists, std::size_t turn, Limits limits, const Request& request);

}  // namespace idistill::selection
