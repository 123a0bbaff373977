#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/row_key.hpp"

namespace idistill::data {

RowKey key_of_id(std::string_view id, std::int64_t row) noexcept;

/// Collective. `mine`: the keys of this rank's rows; `rows`: those of all ranks. The keys are compared in parts of
/// bounded size, a part at a time on one rank; where two keys agree the ids themselves are read again and compared.
/// Gives a pair of rows with the same id on the rank that found it, nothing on the others. Throws nothing itself.
std::optional<std::pair<std::int64_t, std::int64_t>> find_duplicate_ids(
    comm::Communicator& communicator, std::span<const RowKey> mine, std::int64_t rows,
    const std::function<std::string(std::int64_t)>& id_of_row);

}  // namespace idistill::data
