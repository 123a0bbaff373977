#pragma once
// OUT.state: the rows of every finished work unit, so that a killed run loses at most one unit per rank.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/plan/stage.hpp"

namespace idistill::work {

/// A stage's rows, datasets and units. The datasets are "/<stage>/<column>", the marks "/<stage>/done" (u8) and
/// "/<stage>/checksum" (u64), one entry a unit.
struct StateStage {
    std::string name;
    std::int64_t rows = 0;
    std::vector<plan::Column> columns;
    std::vector<data::WorkUnit> units;
};

/// Contiguous datasets allocated at creation, oldest file format, closed once and reopened before the first row is
/// written. Constructor, destructor, sync() and remove() are collective, but nothing is while an exception unwinds;
/// reads and writes are independent. Ranks may be those of MPI or threads of one process (tests).
class StateFile {
public:
    /// Creates `path`, or opens what an earlier run left: then `identity` (JSON object, flat or nested) must equal the
    /// stored one, and so must the sizes and units of the stages, otherwise Error(state_mismatch) on rank 0, before
    /// anything collective, names every key that differs with both values. Units whose checksum does not fit their rows
    /// are not finished (they are done again). A state file cut off during its creation is made anew.
    StateFile(comm::Communicator& communicator, const std::string& path, const std::string& identity,
              std::vector<StateStage> stages);
    ~StateFile();
    StateFile(const StateFile&) = delete;
    StateFile& operator=(const StateFile&) = delete;

    /// Numbers of a stage and of one of its columns, by name. Throws Error(internal_error) for one that is not there.
    [[nodiscard]] std::size_t stage(std::string_view name) const;
    [[nodiscard]] std::size_t column(std::size_t stage, std::string_view name) const;

    /// 1 for every unit of the stage that an earlier run finished; the same on every rank.
    [[nodiscard]] std::span<const std::uint8_t> recovered(std::size_t stage) const;
    [[nodiscard]] std::int64_t units_recovered() const;  ///< over all stages

    /// Writes all columns of one unit (each rows x width of the unit, row-major), then its checksum and done mark.
    void write_unit(std::size_t stage, std::int64_t unit, std::span<const std::span<const float>> columns);

    /// Reads rows of one column, (rows x width).
    void read(std::size_t stage, std::size_t column, data::RowRange rows, std::span<float> out) const;

    /// Collective: after it, reads see what other ranks wrote before it.
    void sync();

    /// Collective: closes and, from rank 0, deletes the file. For the end of a run whose result has its final name.
    void remove();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Keeps two jobs off one result: an fcntl lock on OUT.lock, held by rank 0 for the life of the object, released by the
/// system when the process dies. Rank 0 throws Error(locked) naming host and process of the holder (written into the
/// file). On a file system without locks a warning is all. Open MPI's files that an earlier job left beside those of
/// this one are removed.
class RunLock {
public:
    RunLock(comm::Communicator& communicator, const std::string& out);
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

private:
    std::string path_;
    int descriptor_ = -1;
};

}  // namespace idistill::work
