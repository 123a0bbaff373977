#pragma once
// Micro-batches one after the other, in pieces where a GPU's memory does not hold one.

#include <cstdint>
#include <functional>
#include <vector>

namespace idistill::model {

/// Calls body(members) for every micro-batch. Where that runs out of a GPU's memory, it is called for halves of what is
/// left of the batch; what does not hold one sample is thrown on. `body` leaves nothing behind when it throws.
void for_each_micro_batch(const std::vector<std::vector<std::int64_t>>& batches,
                          const std::function<void(const std::vector<std::int64_t>& members)>& body);

}  // namespace idistill::model
