#include "idistill/model/micro_batches.hpp"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "idistill/base/log.hpp"
#include "idistill/model/cuda.hpp"

namespace idistill::model {
namespace {

using Members = std::vector<std::int64_t>;
using Body = std::function<void(const Members&, Additions&)>;

/// False where memory ran out.
bool fits(const Members& members, Additions& additions, const Body& body) {
    try {
        body(members, additions);
    } catch (const c10::OutOfMemoryError&) {
        if (members.size() == 1) throw;
        return false;
    }
    return true;
}

void in_halves(const Members& members, Additions additions, const Body& body) {
    if (fits(members, additions, body)) return;
    cuda::give_back_unused();
    say(
        fmt::format("warning: the GPU's memory does not hold a micro-batch of {} samples: they are computed in halves; "
                    "a smaller --batch-tokens saves the attempt",
                    members.size()));
    const auto middle = members.begin() + static_cast<std::ptrdiff_t>((members.size() + 1) / 2);
    in_halves({members.begin(), middle}, additions.left(), body);
    in_halves({middle, members.end()}, additions.left(), body);
}

}  // namespace

void for_each_micro_batch(const std::vector<Members>& batches, const std::function<void(const Members&)>& body) {
    add_each_micro_batch(batches, [&](const Members& members, Additions&) { body(members); });
}

void add_each_micro_batch(const std::vector<Members>& batches, const Body& body) {
    for (const auto& batch : batches) in_halves(batch, {}, body);
}

}  // namespace idistill::model
