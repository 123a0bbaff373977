#pragma once
// Which rows of pool and targets a run can use, before the model is loaded. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "idistill/base/hash.hpp"
#include "idistill/data/rows.hpp"

namespace idistill::plan {

enum class QuarantineReason : std::uint8_t {
    empty,
    no_labels,
    no_labels_after_truncation,
    of_a_target,
    too_long_to_rate,
    not_joined,
    too_long_to_join,
    non_finite
};

/// "empty", "no label tokens", "no label tokens after truncation", "also of a target", "too long to be rated", "cannot
/// be joined to others", "too long to be joined to others", "not finite": what result file and log say.
std::string to_string(QuarantineReason reason);

struct Quarantined {
    std::int64_t row = 0;
    QuarantineReason reason = QuarantineReason::empty;
    friend bool operator==(const Quarantined&, const Quarantined&) = default;
};

/// "2 empty, 1 no label tokens"; "no samples" without any.
std::string counted(const std::vector<Quarantined>& rows);

/// One token file of a corpus: how many rows, and the length its samples were cut to (0: they were not).
struct FileRows {
    std::int64_t rows = 0;
    std::int64_t max_length = 0;
};

/// A corpus after its scan: the files' rows one after the other.
struct CorpusShape {
    const data::CorpusIndex& index;
    std::vector<FileRows> files;
    std::vector<Quarantined> left_out = {};  ///< by row: for reasons that its index does not show
};

/// A task's name and its file, as in options::Target.
struct TaskFile {
    std::string name;
    std::string path;
};

struct UsableRows {
    std::int64_t pool_rows = 0;  ///< N, quarantined rows included
    std::int64_t eligible_rows = 0;
    std::vector<std::uint8_t> eligible;  ///< (N)
    std::vector<Quarantined> pool_quarantine;
    std::int64_t tasks = 0;
    std::vector<std::string> task_names;  ///< (tasks)
    std::vector<std::int64_t>
        target_rows;  ///< (M) rows of the target corpus that are kept, in the order of the columns
    std::vector<std::int32_t> target_task;  ///< (M) their task
    std::vector<Quarantined> target_quarantine;
    std::int64_t longest = 0;      ///< tokens of the longest eligible sample or target
    std::int64_t most_labels = 0;  ///< most label tokens in one

    [[nodiscard]] bool is_eligible(std::int64_t row) const { return eligible[static_cast<std::size_t>(row)] != 0; }
    void add_to(Hash& hash) const;
};

/// Throws Error(bad_input) for a pool without a usable sample.
UsableRows usable_pool(const CorpusShape& pool);

/// The same with targets, one file a task. Throws Error(bad_input) also for a task without a usable sample.
UsableRows usable_rows(const CorpusShape& pool, const CorpusShape& targets, const std::vector<TaskFile>& tasks);

/// Eligible rows of a range, ascending.
std::vector<std::int64_t> eligible_in(const UsableRows& usable, const data::RowRange& range);

}  // namespace idistill::plan
