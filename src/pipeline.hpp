#pragma once
// The run, from settings to result file.

#include <string>

#include "idistill/comm/communicator.hpp"
#include "idistill/options/table.hpp"

namespace idistill {

/// Collective. `program`: name, version and source id, for log and result file. Throws Error on the rank that fails,
/// alone.
void run(const options::Table& table, const options::Values& values, comm::Communicator& comm,
         const std::string& program);

}  // namespace idistill
