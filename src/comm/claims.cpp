#include "idistill/comm/claims.hpp"

#include <utility>

namespace idistill::comm {

std::unique_ptr<WorkClaims> make_work_claims(Communicator& communicator, std::span<const std::int64_t> order,
                                             std::function<void(std::int64_t)> on_finished) {
    return communicator.make_claims(order, std::move(on_finished));
}

}  // namespace idistill::comm
