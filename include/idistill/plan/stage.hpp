#pragma once
// A stage of a run, declared once: what ranks claim, what the state keeps, bytes, FLOPs and progress follow. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/data/work_unit.hpp"

namespace idistill::plan {

/// Most rows of a unit, however cheap they are. Its planned cost is at most --unit-flops; a single sample that costs
/// more is a unit of its own.
inline constexpr std::int64_t unit_rows = 65536;

/// A dataset of the state: rows x width float32.
struct Column {
    std::string name;
    std::int64_t width = 1;
};

/// What a stage leaves in the state.
enum class Keeps : std::uint8_t {
    rows,    ///< a row for every place of its units
    units,   ///< kept_rows rows for every unit, whatever its places
    repeats  ///< kept_rows rows for every repeat: the sum of all its units
};

struct Stage {
    std::string name;   ///< of its group of datasets
    std::string title;  ///< for people, in plan and progress
    std::vector<Column> columns;
    std::vector<data::WorkUnit> units;  ///< consecutive, over the places [0, places())
    Keeps keeps = Keeps::rows;
    std::int64_t kept_rows = 1;
    std::int64_t repeats = 1;  ///< all units are done so often, one time after the other
    bool at_most = false;      ///< fewer places may be needed

    [[nodiscard]] std::int64_t places() const;
    [[nodiscard]] double flops() const;  ///< all repeats
    /// What the state keeps: its rows, and the blocks of them that are written, checked and marked as one.
    [[nodiscard]] std::int64_t stored_rows() const;
    [[nodiscard]] std::vector<data::WorkUnit> stored_units() const;
    [[nodiscard]] double stored_bytes() const;
};

/// Notes in every unit the tokens of its places, place -> tokens.
template <class Tokens>
std::vector<data::WorkUnit> with_tokens(std::vector<data::WorkUnit> units, Tokens&& tokens) {
    for (auto& unit : units) {
        unit.tokens = 0;
        for (auto place = unit.rows.first; place < unit.rows.end(); ++place) unit.tokens += tokens(place);
    }
    return units;
}

}  // namespace idistill::plan
