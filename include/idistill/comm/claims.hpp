#pragma once
// Dynamic distribution of work units: rank 0's helper thread hands them out, every rank asks one unit ahead.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Hands out the entries of `order` (unit numbers, those to be done only), first come first served, each exactly once.
/// Every rank creates one object per stage, in the same order, and destroys it at the same place of the program. next()
/// never waits longer than the stall timeout: it throws Error(restart_me) when rank 0 does not answer.
class WorkClaims {
public:
    WorkClaims(const WorkClaims&) = delete;
    WorkClaims& operator=(const WorkClaims&) = delete;

    /// On rank 0 returns when every rank has destroyed its own: until then reports are delivered, afterwards never. A
    /// rank that does not come within the stall timeout is named by the next collective. While an exception unwinds,
    /// returns at once.
    virtual ~WorkClaims() = default;

    /// The next unit of this rank, or nothing when all are handed out. Asks for the one after it before returning.
    virtual std::optional<std::int64_t> next() = 0;

    /// Reports a finished unit to `on_finished` on rank 0. A small message that never waits for rank 0.
    virtual void finished(std::int64_t unit) = 0;

protected:
    WorkClaims() = default;
};

/// `order` and `on_finished` of rank 0 count, those of the other ranks are not looked at. `on_finished` is called in
/// the process of rank 0, from another thread than its own but from one at a time, once per report; it must not block
/// on anything that rank 0 holds while it creates or destroys claims. What it throws is rethrown on rank 0 by the next
/// call that communicates.
inline std::unique_ptr<WorkClaims> make_work_claims(Communicator& communicator, std::span<const std::int64_t> order,
                                                    std::function<void(std::int64_t)> on_finished) {
    return communicator.make_claims(order, std::move(on_finished));
}

}  // namespace idistill::comm
