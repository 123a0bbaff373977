#pragma once
// The pause between two looks at something that another rank must do.

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace idistill::comm {

inline constexpr double idle_yield_seconds = 1e-3;     ///< while others compute
inline constexpr double transfer_yield_seconds = 0.2;  ///< while data moves: MPI moves it only while looked at

/// Spins for 50 us (the others are nearly there), then yields, then sleeps, longer and longer up to 1 ms, so that ranks
/// that wait for a computation leave their core to it.
class Backoff {
public:
    using Seconds = std::chrono::duration<double>;

    /// `yield_seconds`: how long to yield before the first sleep.
    explicit Backoff(double yield_seconds) : yield_seconds_(yield_seconds) {}

    /// Since construction, without the times in which this process itself stood still (a suspended job): a rank that
    /// wakes up must not accuse the others of its own absence.
    [[nodiscard]] double waited_seconds() {
        const auto now = std::chrono::steady_clock::now();
        waited_ += std::min(Seconds(now - last_look_).count(), longest_gap_seconds);
        last_look_ = now;
        return waited_;
    }

    void pause() {
        const double waited = waited_seconds();
        if (waited < 50e-6) return;
        if (waited < yield_seconds_) {
            sched_yield();
            return;
        }
        std::this_thread::sleep_for(Seconds(nap_));
        nap_ = std::min(2 * nap_, 1e-3);
    }

private:
    static constexpr double longest_gap_seconds = 0.5;  ///< between two looks of a rank that runs, if on a busy core

    std::chrono::steady_clock::time_point last_look_ = std::chrono::steady_clock::now();
    double waited_ = 0.0;
    double yield_seconds_;
    double nap_ = 50e-6;
};

}  // namespace idistill::comm
