#pragma once
// Doing the units of a stage: claimed by any rank, written to the state, reported as progress.

#include "idistill/report/progress.hpp"
#include "run.hpp"

namespace idistill::stages {

/// The columns of one unit, each (rows of the unit x width) fp32 on the CPU.
using UnitColumns = std::vector<torch::Tensor>;

struct UnitStage {
    StateStage stage;
    std::string title;  ///< for the progress line
    const std::vector<data::WorkUnit>* units;
    std::function<Work(const data::WorkUnit&)> work_of;  ///< for rates and time left
    std::function<UnitColumns(const data::WorkUnit&)> compute;
};

/// Work of a unit whose rows are samples of `corpus`: row i is its sample rows[i], or i itself without `rows`.
std::function<Work(const data::WorkUnit&)> sample_work(const data::Corpus& corpus,
                                                       const std::vector<std::int64_t>* rows = nullptr);

/// Every rank claims and computes units that an earlier run did not finish; no exchange inside the loop. Afterwards all
/// rows are in the state file, for every rank to read.
void do_units(const Run& run, const UnitStage& stage);

/// The same; then the first `rows` rows of every column on every rank, by an exact all-reduce of row-disjoint buffers.
/// Units behind them are in the state alone.
UnitColumns do_units_and_gather(const Run& run, const UnitStage& stage, std::int64_t rows,
                                const std::vector<std::int64_t>& widths);

}  // namespace idistill::stages
