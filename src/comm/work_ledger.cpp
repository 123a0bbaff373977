#include "work_ledger.hpp"

#include <utility>

namespace idistill::comm {

void WorkLedger::open(std::int64_t stage, std::span<const std::int64_t> order,
                      std::function<void(std::int64_t)> on_finished) {
    const std::scoped_lock lock(mutex_);
    opened_ = stage;
    stages_[stage] = {{order.begin(), order.end()},
                      std::move(on_finished),
                      0,
                      std::vector<bool>(static_cast<std::size_t>(ranks_), false)};
}

bool WorkLedger::was_opened(std::int64_t stage) const {
    const std::scoped_lock lock(mutex_);
    return stage <= opened_;
}

std::int64_t WorkLedger::claim(std::int64_t stage) {
    const std::scoped_lock lock(mutex_);
    const auto entry = stages_.find(stage);
    if (entry == stages_.end() || entry->second.handed_out == entry->second.order.size()) return nothing_left;
    return entry->second.order[entry->second.handed_out++];
}

void WorkLedger::finished(std::int64_t stage, std::int64_t unit) {
    const std::scoped_lock lock(mutex_);
    const auto entry = stages_.find(stage);
    if (entry != stages_.end() && entry->second.on_finished) entry->second.on_finished(unit);
}

void WorkLedger::leave(std::int64_t stage, int rank) {
    const std::scoped_lock lock(mutex_);
    const auto entry = stages_.find(stage);
    if (entry != stages_.end()) entry->second.left[static_cast<std::size_t>(rank)] = true;
}

std::vector<int> WorkLedger::still_at_work(std::int64_t stage) const {
    const std::scoped_lock lock(mutex_);
    std::vector<int> ranks;
    const auto entry = stages_.find(stage);
    if (entry == stages_.end()) return ranks;
    for (int rank = 0; rank < ranks_; ++rank) {
        if (!entry->second.left[static_cast<std::size_t>(rank)]) ranks.push_back(rank);
    }
    return ranks;
}

void WorkLedger::close(std::int64_t stage) {
    const std::scoped_lock lock(mutex_);
    stages_.erase(stage);
}

}  // namespace idistill::comm
