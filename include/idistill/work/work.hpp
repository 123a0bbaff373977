#pragma once
// Doing the stages of a plan: units claimed by any rank, written to the state, reported as progress. Restart and rank
// invariance, once for everything that computes.

#include <torch/types.h>

#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "idistill/base/progress.hpp"
#include "idistill/comm/communicator.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/work/state_file.hpp"

namespace idistill::work {

/// What a stage is done with: the ranks, and the state that keeps its rows.
struct Work {
    comm::Communicator& comm;
    StateFile& state;
    const plan::Plan& plan;
};

/// The columns of one unit, each (rows of the unit x width).
using Compute = std::function<std::vector<torch::Tensor>(const data::WorkUnit&)>;

inline constexpr data::RowRange all_places{0, std::numeric_limits<std::int64_t>::max()};

/// Every rank claims and computes units that an earlier run did not finish, of those that begin in `places`; no
/// exchange inside the loop. Afterwards all rows are in the state file, for every rank to read. `known`: the same units
/// with what they turned out to hold and to cost, where that is better known than planned; for progress and order.
void do_units(const Work& work, std::string_view stage, const Compute& compute, data::RowRange places = all_places,
              const std::vector<data::WorkUnit>& known = {});

/// do_units for the units in `claimed`; then gives the rows of `places` of every column on every rank, by an exact
/// all-reduce of row-disjoint buffers, in the memory of `device`. Units outside of them are in the state alone.
std::vector<torch::Tensor> do_units_and_gather(const Work& work, std::string_view stage, const Compute& compute,
                                               data::RowRange places, data::RowRange claimed = all_places,
                                               torch::Device device = torch::kCPU);

/// What a unit adds to the progress of its stage.
ProgressAmount amount_of(const data::WorkUnit& unit);

/// Of a stage whose repeats are kept: `recovered` of them are done. On rank 0.
std::unique_ptr<Progress> progress_of(const plan::Stage& stage, std::span<const std::uint8_t> recovered);

/// The numbers of a contiguous fp32 tensor on the CPU.
std::span<float> values(const torch::Tensor& tensor);
/// Those of any fp32 tensor on the CPU, in order of rows.
std::vector<float> copied(const torch::Tensor& tensor);

/// (rows x width) of NaN: rows of a unit that have nothing to say stay so.
torch::Tensor unknown_rows(std::int64_t rows, std::int64_t width);
/// Puts values (n x width or less) into these places of a unit's rows, from the first number of a row on.
void put_rows(torch::Tensor& unit_rows, const std::vector<std::int64_t>& places, const torch::Tensor& values);

}  // namespace idistill::work
