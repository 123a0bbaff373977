#pragma once
// Rank 0's helper thread: hands out units, passes on reports, knows who has arrived at which collective.

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "mail.hpp"
#include "work_ledger.hpp"

namespace idistill::comm {

/// Looks for letters, answers them, sleeps 1 ms, until every rank has said goodbye or the object is destroyed.
class Service {
public:
    /// `beat_seconds`: how often a rank says that it waits or works. While any rank has worked within the last
    /// `stall_timeout` seconds nobody is missing.
    Service(MPI_Comm comm, int ranks, double beat_seconds, double stall_timeout);
    ~Service();
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    [[nodiscard]] WorkLedger& ledger() noexcept { return ledger_; }

    /// Every rank has said goodbye, and everything sent before that was served.
    [[nodiscard]] bool is_done() const noexcept { return done_; }

    /// Throws what ended the helper thread early, if something did.
    void rethrow_failure();

private:
    using Clock = std::chrono::steady_clock;
    struct Seen {
        std::int64_t number = 0;
        std::int64_t operation = 0;
        Clock::time_point waiting;  ///< when it last said that it waits
    };
    struct Claim {
        int rank;
        std::int64_t stage;
    };

    void run() noexcept;
    void serve();
    void handle(const Received& received);
    void answer_claims();
    [[nodiscard]] Letter missing_at(std::int64_t number) const;
    [[nodiscard]] static double seconds_since(Clock::time_point when);

    const MPI_Comm comm_;
    const double beat_seconds_;
    const double stall_timeout_;
    std::optional<Clock::time_point> worked_;  ///< when any rank last said that it works
    WorkLedger ledger_;
    Outbox outbox_;
    std::vector<Seen> seen_;
    std::vector<Claim> claims_;
    int goodbyes_ = 0;
    std::atomic<bool> done_{false};
    std::atomic<bool> stop_{false};
    std::mutex failure_mutex_;
    std::exception_ptr failure_;
    std::thread thread_;
};

}  // namespace idistill::comm
