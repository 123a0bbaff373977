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

/// Rows of the stages that have columns: datasets "/<stage>/<column>", marks "/<stage>/done" (u8) and
/// "/<stage>/checksum" (u64), one entry a stored unit. Contiguous datasets allocated at creation, oldest file format,
/// closed once and reopened before the first row is written. Constructor, destructor, sync() and remove() are
/// collective, but nothing is while an exception unwinds; reads and writes are independent. Ranks may be those of MPI
/// or threads of one process (tests).
class StateFile {
public:
    /// Creates `path`, or opens what an earlier run left: then `identity` (JSON object, flat or nested) must equal the
    /// stored one, and so must the sizes and units of the stages, otherwise Error(state_mismatch) on rank 0, before
    /// anything collective, names every key that differs with both values. Units whose checksum does not fit their rows
    /// are not finished (they are done again). A state file cut off during its creation is made anew.
    StateFile(comm::Communicator& communicator, const std::string& path, const std::string& identity,
              const std::vector<plan::Stage>& stages);
    ~StateFile();
    StateFile(const StateFile&) = delete;
    StateFile& operator=(const StateFile&) = delete;

    // Stages and columns by name; Error(internal_error) for one that is not there.

    /// 1 for every stored unit of the stage that an earlier run finished; the same on every rank.
    [[nodiscard]] std::span<const std::uint8_t> recovered(std::string_view stage) const;
    [[nodiscard]] std::int64_t units_recovered() const;  ///< over all stages

    /// Writes all columns of one stored unit (each rows x width of the unit, row-major), then its checksum and done
    /// mark.
    void write_unit(std::string_view stage, std::int64_t unit, std::span<const std::span<const float>> columns);

    /// Reads rows of one column, (rows x width).
    void read(std::string_view stage, std::string_view column, data::RowRange rows, std::span<float> out) const;

    /// Collective: after it, reads see what other ranks wrote before it.
    void sync();

    /// Collective: closes and, from rank 0, deletes the file. For the end of a run whose result has its final name.
    void remove();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace idistill::work
