#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/row_key.hpp"

namespace idistill::data {

/// Collective: brings equal keys of all ranks together, in parts of bounded size. `mine`: this rank's; `rows`: how many
/// all ranks have. compare(the keys of a part, ascending by key, then row) is called on one rank a part.
void for_each_part_of_keys(comm::Communicator& communicator, std::span<const RowKey> mine, std::int64_t rows,
                           const std::function<void(std::span<const RowKey>)>& compare);

}  // namespace idistill::data
