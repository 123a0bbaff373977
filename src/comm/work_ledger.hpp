#pragma once
// What rank 0 knows about the units of every stage: handed out, reported, who is still at work. No communication.

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <vector>

namespace idistill::comm {

/// Stages are numbered 1, 2, ... and opened in that order; any number may be open at a time. Safe to use from several
/// threads.
class WorkLedger {
public:
    static constexpr std::int64_t nothing_left = -1;

    explicit WorkLedger(int ranks) : ranks_(ranks) {}

    void open(std::int64_t stage, std::span<const std::int64_t> order, std::function<void(std::int64_t)> on_finished);

    /// Whether the stage was opened, now or in the past; only then it may be claimed from.
    [[nodiscard]] bool was_opened(std::int64_t stage) const;

    /// The next unit, or `nothing_left`; also of a closed stage.
    std::int64_t claim(std::int64_t stage);

    /// Calls the stage's on_finished, one call at a time; a report to a closed stage is dropped.
    void finished(std::int64_t stage, std::int64_t unit);

    /// This rank will neither claim nor report any more.
    void leave(std::int64_t stage, int rank);
    [[nodiscard]] std::vector<int> still_at_work(std::int64_t stage) const;

    /// After the return on_finished is not called again.
    void close(std::int64_t stage);

private:
    struct Stage {
        std::vector<std::int64_t> order;
        std::function<void(std::int64_t)> on_finished;
        std::size_t handed_out = 0;
        std::vector<bool> left;
    };

    const int ranks_;
    mutable std::mutex mutex_;
    std::int64_t opened_ = 0;
    std::map<std::int64_t, Stage> stages_;
};

}  // namespace idistill::comm
