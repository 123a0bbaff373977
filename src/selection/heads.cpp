#include "heads.hpp"

#include <algorithm>
#include <utility>

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

}  // namespace idistill::selection
