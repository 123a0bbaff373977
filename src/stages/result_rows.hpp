#pragma once
// What `run` and `select` share in choosing and writing.

#include "run.hpp"

namespace idistill::stages {

using ReadIds = std::function<std::vector<std::string>(data::RowRange)>;

/// Rule, budget and caps of the settings for a pool of so many rows; source names become numbers. Throws Error(usage)
/// for an unknown source.
selection::Request selection_request(const config::Settings& settings, const std::vector<std::string>& source_names,
                                     std::int64_t pool_rows);

/// The same for this run's pool, with all that a selection needs. It refers to the run. Weights take the mean over all
/// columns, so to them these are of one task.
selection::Request pool_request(const Run& run, const TargetLabels& targets);

/// What this request selects from this run's pool. Collective; the same on every rank.
selection::Selection selection_of(const Run& run, const TargetLabels& targets, const selection::Request& request);

/// Influence rows (rows x columns) of the pool: exact where they were refined. Of targets.products() columns, those of
/// the curvature's factor are behind the influences. Reads the state.
void read_influence(const Run& run, std::int64_t columns, data::RowRange rows, std::span<float> out);

/// Gradient norms of rows of the pool: exact where they were refined. Reads the state.
void read_norm(const Run& run, data::RowRange rows, std::span<float> out);

/// Influence rows from the state as they were propagated or computed, without the room for dropped columns.
void read_influence(const io::StateFile& state, std::int64_t stored_columns, std::int64_t columns, data::RowRange rows,
                    std::span<float> out);

/// /weight and /selected: the selection's weights, or N / k each; read_ids is asked for rows of this rank's shard.
void write_selection(comm::Communicator& comm, io::ResultWriter& writer, const selection::Selection& selection,
                     std::int64_t pool_rows, const ReadIds& read_ids);

/// Rank 0 fails when OUT is a directory and, but for plan, when it exists and may not be replaced.
void check_output_is_free(const config::Settings& settings, comm::Communicator& comm);

}  // namespace idistill::stages
