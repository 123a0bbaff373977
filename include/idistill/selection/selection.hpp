#pragma once
// From influences to a selection: exact, the same for any rank count, ties by global row.

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "idistill/comm/communicator.hpp"

namespace idistill::selection {

enum class Rule { round_robin, top_k, random };

/// How many samples: exactly one member is set.
struct Budget {
    std::optional<std::int64_t> samples;  ///< k
    /// Picks stop before the first sample that would exceed it, or when none is left.
    std::optional<std::int64_t> tokens;
    bool at_most = false;  ///< fewer samples, even none, where not so many are eligible: no error
};

/// This rank's rows [first_row, first_row + rows) of the pool. Ranks' row ranges are contiguous, ascending, disjoint
/// and cover the pool; a rank may have none.
struct Shard {
    std::int64_t first_row = 0;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    /// Reads `count` rows of influence from global row `first` on: (count x columns) float32; several passes over the
    /// shard. A row with a value that is not finite is never taken, by any rule.
    std::function<void(std::int64_t first, std::int64_t count, std::span<float> out)> read;

    /// take(global row, its influence (columns)) of every row, ascending; read in blocks of at most 8 MB, or one row.
    void for_each_row(const std::function<void(std::int64_t row, std::span<const float> influence)>& take) const;
};

/// Bytes that for_each_row() holds of so many rows.
double read_bytes(std::int64_t rows, std::int64_t columns);

struct Request {
    Rule rule = Rule::round_robin;
    Budget budget;
    std::uint64_t seed = 43;
    std::vector<std::int32_t> column_task;            ///< (columns, at least one) task number of every column, from 0
    std::int32_t tasks = 0;                           ///< each has a column
    bool top_k_by_maximum = false;                    ///< top_k ranks by the best task instead of the mean over tasks
    std::span<const std::uint8_t> eligible;           ///< (pool_rows) 0: quarantined; on every rank
    std::span<const std::int32_t> tokens;             ///< (pool_rows) sample lengths; on every rank
    std::span<const std::int32_t> source;             ///< (pool_rows) source number; on every rank
    std::map<std::int32_t, std::int64_t> source_cap;  ///< source number -> most samples of it
};

struct Pick {
    std::int64_t row = 0;      ///< global pool row
    std::int32_t column = -1;  ///< the column that chose it; -1 if none
};

/// An attribute of the result that says how a selection came about.
struct Figure {
    std::string name;
    std::variant<std::int64_t, double> value;
};

/// Their names, in order.
std::vector<std::string> names_of(const std::vector<Figure>& figures);

struct Selection {
    std::vector<Pick> picks;      ///< in order of selection; the same on every rank
    std::int64_t tokens = 0;      ///< sum of their lengths
    std::vector<double> weight;   ///< (picks) with sum N; empty: all weigh the same
    std::vector<Figure> figures;  ///< named as Member::figures says
    std::string report;           ///< what it came to, for people; empty where there is nothing to say
};

/// Order in which round robin serves the columns: tasks interleaved (first column of every task, then the second, ...).
/// Pure.
std::vector<std::int32_t> interleave_tasks(std::span<const std::int32_t> column_task, std::int32_t tasks);

/// Collective. Exact, and memory is bounded whatever the budget. round_robin: the columns take turns in interleaved
/// order, each taking its best row left, influence descending. top_k: mean over tasks (or best task) of the mean over
/// the task's columns. random: seeded permutation. In all of them ties go to the lower row, and rows of a source at its
/// cap are passed over. Throws Error(usage) when the budget asks for more samples than are eligible (says how many are,
/// caps considered), or for fewer tokens than the first choice has.
Selection select(comm::Communicator& communicator, const Shard& shard, const Request& request);

}  // namespace idistill::selection
