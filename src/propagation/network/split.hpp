#pragma once
// Which samples a network never sees while it learns, to be judged by them.

#include <cstdint>
#include <vector>

#include "training.hpp"

namespace idistill::propagation {

/// Places of labelled samples and of columns, ascending.
struct Split {
    std::vector<std::int64_t> rows, columns;            ///< that are learnt from
    std::vector<std::int64_t> held_rows, held_columns;  ///< of the held-out pairs; no rows: nothing is held out
    bool holds_columns = false;                         ///< columns that are not learnt from; otherwise these are all
};

/// Keeps out a tenth of the labelled samples (at least one), and of the columns as well where that can be: those of the
/// labelled samples kept out where columns are labelled samples themselves (then at least two of these), otherwise a
/// tenth of at least ten that stand for samples. No sample of a held-out pair is then in a pair that is learnt, but for
/// columns of fewer targets. Where nothing would be left to learn from, or to judge by, nothing is held out.
/// `labelled` (columns) the place among the labelled samples of the one that a column is; -1 for another sample.
/// A function of its arguments.
Split split_samples(std::int64_t rows, const std::vector<std::int64_t>& labelled, bool by_target, std::uint64_t seed);

/// Every row with every column but itself, rows first.
std::vector<Pair> pairs_of(const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& columns,
                           const std::vector<std::int64_t>& labelled);

}  // namespace idistill::propagation
