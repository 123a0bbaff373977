#include "rounds.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "idistill/base/error.hpp"

namespace idistill::selection {

void Heads::keep(std::size_t list, Candidate candidate) {
    auto& best = heads_[list].best;
    best.push_back(candidate);
    if (best.size() >= 2 * depth_) cut(list);
}

void Heads::cut(std::size_t list) {
    auto& [best, truncated] = heads_[list];
    if (best.size() <= depth_) return;
    const auto last = best.begin() + static_cast<std::ptrdiff_t>(depth_) - 1;
    std::nth_element(best.begin(), last, best.end(), ranks_before);
    thresholds_[list] = last->value;
    best.resize(depth_);
    truncated = true;
}

std::vector<Head> Heads::take() {
    for (std::size_t list = 0; list < heads_.size(); ++list) {
        cut(list);
        std::sort(heads_[list].best.begin(), heads_[list].best.end(), ranks_before);
    }
    return std::exchange(heads_, {});
}

Head merge_heads(std::span<const Head> parts) {
    Head merged;
    const Candidate* limit = nullptr;  // best last candidate of a truncated part
    for (const Head& part : parts) {
        merged.best.insert(merged.best.end(), part.best.begin(), part.best.end());
        if (!part.truncated) continue;
        merged.truncated = true;
        if (limit == nullptr || ranks_before(part.best.back(), *limit)) limit = &part.best.back();
    }
    if (limit != nullptr)
        std::erase_if(merged.best, [limit](const Candidate& candidate) { return ranks_before(*limit, candidate); });
    std::sort(merged.best.begin(), merged.best.end(), ranks_before);
    return merged;
}

Served serve(std::span<const Head> lists, std::size_t turn, Limits limits, const Request& request) {
    Served served;
    std::vector<bool> taken(request.eligible.size(), false);
    std::vector<std::size_t> next(lists.size(), 0);
    for (; limits.samples > 0; turn = (turn + 1) % lists.size()) {
        const Head& list = lists[turn];
        std::size_t& position = next[turn];
        const auto passed_over = [&](const Candidate& candidate) {
            const auto row = static_cast<std::size_t>(candidate.row);
            return taken[row] || !limits.has_room(request.source[row]);
        };
        while (position < list.best.size() && passed_over(list.best[position])) ++position;
        if (position == list.best.size()) {
            if (list.truncated) return served;
            throw Error(ExitCode::internal_error, {"selection", "", std::to_string(limits.samples) + " more candidates",
                                                   "a list that ended", ""});
        }
        const auto row = static_cast<std::size_t>(list.best[position].row);
        if (request.tokens[row] > limits.tokens) break;
        limits.take(request.source[row], request.tokens[row]);
        taken[row] = true;
        served.rows.push_back(list.best[position].row);
    }
    served.finished = true;
    return served;
}

}  // namespace idistill::selection
