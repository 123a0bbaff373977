#pragma once
// Dynamic distribution of work units: rank 0's helper thread hands them out, every rank asks one unit ahead.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Hands out the entries of `order` (unit numbers, the same on every rank, those to be done only), first come first served.
/// Constructor and destructor are not collective towards the units' work, but all ranks create one claim per stage, in the
/// same order. next() never waits longer than the stall timeout and throws Error(restart_me) when rank 0 does not answer.
class WorkClaims {
public:
    virtual ~WorkClaims() = default;

    /// The next unit of this rank, or nothing when all are handed out. Asks for the one after it before returning.
    virtual std::optional<std::int64_t> next() = 0;

    /// Reports a finished unit (its planned cost, samples and tokens) to rank 0, where it reaches `on_work` of the
    /// constructor's caller; never blocks on rank 0's computation.
    virtual void finished(std::int64_t unit) = 0;
};

/// `on_finished` is called on rank 0 only, from the helper thread, once per unit that any rank reported.
/// The destructor on rank 0 returns when every rank has been told that nothing is left.
std::unique_ptr<WorkClaims> make_work_claims(Communicator& communicator, std::span<const std::int64_t> order,
                                             std::function<void(std::int64_t)> on_finished);

}  // namespace idistill::comm
