#include "pulse.hpp"

#include <chrono>
#include <ctime>
#include <exception>
#include <utility>

namespace idistill::comm {
namespace {

constexpr double busy_share = 1e-3;  // of a beat: less is a thread that only wakes up now and then

}  // namespace

Pulse::Pulse(MPI_Comm mail, double beat_seconds, double stall_timeout, const std::atomic<bool>& waits, Stalled stalled)
    : mail_(mail),
      beat_seconds_(beat_seconds),
      stall_timeout_(stall_timeout),
      waits_(waits),
      stalled_(std::move(stalled)),
      outbox_(mail) {
    if (pthread_getcpuclockid(pthread_self(), &clock_) != 0) return;  // such a system keeps the plain timeout
    thread_ = std::thread([this] { run(); });
}

Pulse::~Pulse() {
    {
        const std::scoped_lock lock(mutex_);
        stop_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
}

void Pulse::enter(std::string what, std::int64_t number) {
    const std::scoped_lock lock(mutex_);
    blocked_ = Blocked{std::move(what), number};
}

void Pulse::leave() {
    const std::scoped_lock lock(mutex_);
    blocked_.reset();
}

double Pulse::processor_seconds() const {
    timespec used{};
    clock_gettime(clock_, &used);
    return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

void Pulse::watch(Blocked& blocked) {
    outbox_.post(0, tag::request, {Note::waiting});
    blocked.seconds += beat_seconds_;
    if (blocked.seconds <= stall_timeout_) return;
    const auto answer = ask_who_is_missing(outbox_, mail_, blocked.number);
    if (!answer || answer->letter.value != somebody_works) stalled_(blocked.what, answer);
}

void Pulse::run() noexcept {
    try {
        std::unique_lock lock(mutex_);
        double before = processor_seconds();
        while (!changed_.wait_for(lock, std::chrono::duration<double>(beat_seconds_), [this] { return stop_; })) {
            const double now = processor_seconds();
            if (blocked_)
                watch(*blocked_);
            else if (!waits_ && now - before > busy_share * beat_seconds_)
                outbox_.post(0, tag::request, {Note::working});
            before = now;
        }
    } catch (const std::exception&) {  // MPI fails: the computing thread will meet the same failure, and say so
    }
}

}  // namespace idistill::comm
