#pragma once
// What every rank computes on, and which GPU it takes.

#include <cstddef>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/options/values.hpp"

namespace idistill::stages {

/// One rank's GPUs, as the others are told.
struct SeenGpus {
    std::string host;
    std::vector<std::string> uuids, names;
    std::string why_none;
};

/// For every rank a place among the GPUs that it sees: the first that no rank before it has, whether ranks see all of
/// their node's or one each. Throws Error(usage) for a rank that sees none, or none that is free, or one of another
/// model than rank 0's. The same on every rank for the same `all`.
std::vector<std::size_t> assigned_gpus(const std::vector<SeenGpus>& all);

/// Throws Error(usage) unless every rank has rank 0's libraries (model::cuda::libraries(), by rank).
void check_libraries(const std::vector<std::string>& all);

/// False where nothing of the command is computed with a model: all of it is of files, which a GPU makes no faster.
/// Throws Error(bad_input) where a file that decides it cannot be opened.
bool runs_model(const options::Values& values);

/// The settings with what ranks compute on chosen: auto is decided, every rank gets a GPU of its own, and what the
/// options leave open follows from it. Collective. Throws Error(usage) where GPUs are missing, shared by two ranks or
/// of different models.
options::Values choose_device(const options::Values& values, comm::Communicator& comm);

}  // namespace idistill::stages
