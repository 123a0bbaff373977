#pragma once
// What fake_nccl.cpp and fake_cuda.cpp share: the default stream of the one GPU, its memory, the calls so far and what
// is to go wrong with them.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace fake {

inline void nap() { std::this_thread::sleep_for(std::chrono::microseconds(50)); }

inline std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

/// A thread that does one work after the other.
class DefaultStream {
public:
    DefaultStream() {
        std::thread([this] { run(); }).detach();
    }

    /// The number of the work that was added.
    std::int64_t add(std::function<void()> work) {
        const std::scoped_lock lock(mutex_);
        works_.push_back(std::move(work));
        changed_.notify_all();
        return ++added_;
    }
    [[nodiscard]] std::int64_t added() const { return added_; }
    [[nodiscard]] bool has_done(std::int64_t number) const { return done_ >= number; }
    void finish() const {
        while (!has_done(added())) nap();
    }

private:
    void run() {
        for (;;) {
            std::function<void()> work;
            {
                std::unique_lock lock(mutex_);
                changed_.wait(lock, [this] { return !works_.empty(); });
                work = std::move(works_.front());
                works_.pop_front();
            }
            work();
            ++done_;
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> works_;
    std::atomic<std::int64_t> added_{0}, done_{0};
};

DefaultStream& stream();

/// Where the device finds what the program calls by this address; host memory is where it is.
char* inside(const void* address);

struct Fault {
    std::string kind;
    int value = 0;
};

/// Notes the call and says what is to go wrong with it.
Fault note(const std::string& call, const std::string& more = "");

/// All calls that were noted, one a line.
std::string noted();

}  // namespace fake
