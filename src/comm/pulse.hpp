#pragma once
// A rank that computes for longer than the stall timeout has not stalled: this tells rank 0's helper so.

#include <mpi.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "mail.hpp"

namespace idistill::comm {

/// A thread that looks, every beat, whether the thread that made the object has used processor time, and says so,
/// unless that thread waits for other ranks. One that is stopped, blocked or swallowed by a dead file system is silent.
class Pulse {
public:
    /// `waits`: whether the computing thread waits for other ranks.
    Pulse(MPI_Comm mail, double beat_seconds, const std::atomic<bool>& waits);
    /// Afterwards nothing is sent any more.
    ~Pulse();
    Pulse(const Pulse&) = delete;
    Pulse& operator=(const Pulse&) = delete;

private:
    void run() noexcept;
    [[nodiscard]] double processor_seconds() const;

    const double beat_seconds_;
    const std::atomic<bool>& waits_;
    clockid_t clock_{};
    Outbox outbox_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool stop_ = false;
    std::thread thread_;
};

}  // namespace idistill::comm
