#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace idistill {

/// The first `count` of a uniformly random permutation of the rows with eligible != 0; a larger count only appends.
/// Fisher-Yates whose array is never made: memory O(count + N / 4096). Pure.
std::vector<std::int64_t> first_of_permutation(std::span<const std::uint8_t> eligible, std::uint64_t seed,
                                               std::string_view purpose, std::int64_t count);

}  // namespace idistill
