#pragma once

#include <cstdint>

namespace idistill::data {

/// 128 bits of what a row has, its id or its content, and which row of the corpus it is.
struct RowKey {
    std::uint64_t high = 0;
    std::uint64_t low = 0;
    std::int64_t row = 0;
};

}  // namespace idistill::data
