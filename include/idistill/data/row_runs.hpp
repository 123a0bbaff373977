#pragma once
// Rows in any order, as runs of consecutive ones: one read serves a run.

#include <cstddef>
#include <cstdint>
#include <span>

#include "idistill/data/rows.hpp"

namespace idistill::data {

/// Calls visit(place, rows) for every run: `place` of its first row among those given.
template <class Visit>
void for_each_run(std::span<const std::int64_t> rows, Visit visit) {
    for (std::size_t i = 0; i < rows.size();) {
        std::size_t end = i + 1;
        while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
        visit(i, RowRange{rows[i], static_cast<std::int64_t>(end - i)});
        i = end;
    }
}

}  // namespace idistill::data
