#pragma once
// Signs of life of a rank whose own thread has none to give: while it computes, and while it is inside a call that
// blocks.

#include <mpi.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "mail.hpp"

namespace idistill::comm {

/// A thread that looks at the thread that made the object, every beat. Has it used processor time, and does not wait
/// for other ranks, it works: rank 0's helper is told, and nobody takes this rank for stalled, however long that lasts.
/// One that is stopped, or swallowed by a dead file system, is silent. Is it inside a blocking call, it waits, and
/// after the stall timeout `stalled` ends the job.
class Pulse {
public:
    using Stalled = std::function<void(const std::string& what, const std::optional<Received>& answer)>;

    /// `waits`: whether the computing thread waits for other ranks.
    Pulse(MPI_Comm mail, double beat_seconds, double stall_timeout, const std::atomic<bool>& waits, Stalled stalled);
    /// Afterwards nothing is sent any more.
    ~Pulse();
    Pulse(const Pulse&) = delete;
    Pulse& operator=(const Pulse&) = delete;

    /// Around a blocking call; `number` collectives have been entered before it.
    void enter(std::string what, std::int64_t number);
    void leave();

private:
    struct Blocked {
        std::string what;
        std::int64_t number = 0;
        double seconds = 0.0;  ///< counted in beats: a suspended process does not grow impatient
    };

    void run() noexcept;
    void watch(Blocked& blocked);
    [[nodiscard]] double processor_seconds() const;

    const MPI_Comm mail_;
    const double beat_seconds_;
    const double stall_timeout_;
    const std::atomic<bool>& waits_;
    const Stalled stalled_;
    clockid_t clock_{};
    Outbox outbox_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::optional<Blocked> blocked_;
    bool stop_ = false;
    std::thread thread_;
};

}  // namespace idistill::comm
