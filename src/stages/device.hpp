#pragma once
// Which GPU every rank takes.

#include <cstddef>
#include <string>
#include <vector>

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

}  // namespace idistill::stages
