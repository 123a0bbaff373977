#include "idistill/model/micro_batches.hpp"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>

#include "idistill/base/log.hpp"
#include "idistill/model/cuda.hpp"

namespace idistill::model {
namespace {

using Members = std::vector<std::int64_t>;

/// False where memory ran out.
bool fits(const Members& members, const std::function<void(const Members&)>& body) {
    try {
        body(members);
    } catch (const c10::OutOfMemoryError&) {
        if (members.size() == 1) throw;
        return false;
    }
    return true;
}

}  // namespace

void for_each_micro_batch(const std::vector<Members>& batches, const std::function<void(const Members&)>& body) {
    for (const auto& batch : batches) {
        std::size_t pieces = 1;  // anew for every batch: what happened before decides no bits
        for (std::size_t first = 0; first < batch.size();) {
            const auto most = (batch.size() + pieces - 1) / pieces;
            const auto count = std::min(most, batch.size() - first);
            const auto begin = batch.begin() + static_cast<std::ptrdiff_t>(first);
            if (fits({begin, begin + static_cast<std::ptrdiff_t>(count)}, body)) {
                first += count;
                continue;
            }
            pieces *= 2;
            cuda::give_back_unused();
            say(
                fmt::format("warning: the GPU's memory does not hold a micro-batch of {} samples: they are computed in "
                            "{} pieces; a smaller --batch-tokens saves the attempt",
                            count, pieces));
        }
    }
}

}  // namespace idistill::model
