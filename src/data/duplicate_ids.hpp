#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "idistill/comm/communicator.hpp"

namespace idistill::data {

/// An id as 128 bits and the row of the corpus it belongs to.
struct IdKey {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    std::int64_t row = 0;
};

IdKey key_of_id(std::string_view id, std::int64_t row) noexcept;

/// Collective. `mine`: the keys of this rank's rows; `rows`: those of all ranks. The keys are compared in parts of
/// bounded size, a part at a time on one rank; where two keys agree the ids themselves are read again and compared.
/// Gives a pair of rows with the same id on the rank that found it, nothing on the others. Throws nothing itself.
std::optional<std::pair<std::int64_t, std::int64_t>> find_duplicate_ids(
    comm::Communicator& communicator, std::span<const IdKey> mine, std::int64_t rows,
    const std::function<std::string(std::int64_t)>& id_of_row);

}  // namespace idistill::data
