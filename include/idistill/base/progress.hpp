#pragma once
// Progress of one stage: a line with percent, rates and time left on a terminal, a log line every few percent
// otherwise.

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace idistill {

/// What a finished unit adds. `cost` is the planned cost (FLOPs) that percent and time left are counted in.
struct ProgressAmount {
    std::int64_t samples = 0;
    std::int64_t tokens = 0;
    double cost = 0.0;

    ProgressAmount& operator+=(const ProgressAmount& other) {
        samples += other.samples;
        tokens += other.tokens;
        cost += other.cost;
        return *this;
    }
};

/// Shows the progress of one stage on standard error. Used by rank 0 only, from one thread at a time.
class Progress {
public:
    /// `total` is the whole stage, `recovered` the part of it that a former run already did: counted in percent, not in
    /// rates and time left.
    Progress(std::string stage, ProgressAmount total, ProgressAmount recovered);
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// Adds what was finished, and shows it when it is time: on a terminal ten times a second at most; otherwise at
    /// first, then after 5 percent more, two seconds apart at least. The destructor shows the last state.
    void add(const ProgressAmount& done);

    /// From now on the stage is shown by this name.
    void name(std::string stage) { stage_ = std::move(stage); }

    /// The line as shown now; pure function of its arguments, for tests.
    [[nodiscard]] static std::string line(const std::string& stage, const ProgressAmount& total,
                                          const ProgressAmount& recovered, const ProgressAmount& done,
                                          double elapsed_seconds);

private:
    void show(bool last);

    std::string stage_;
    ProgressAmount total_;
    ProgressAmount recovered_;
    ProgressAmount done_;
    std::chrono::steady_clock::time_point start_;
    std::chrono::steady_clock::time_point last_shown_;
    double last_percent_ = -1.0;
    bool terminal_ = false;
};

}  // namespace idistill
