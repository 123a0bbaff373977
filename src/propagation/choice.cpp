#include "idistill/propagation/choice.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace idistill::propagation {

std::size_t cheapest_near_best(std::span<const double> errors, std::span<const double> costs, double slack) {
    std::vector<double> known;
    for (const double error : errors)
        known.push_back(std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
    const double most = *std::min_element(known.begin(), known.end()) * slack;
    std::size_t chosen = known.size();
    for (std::size_t i = 0; i < known.size(); ++i) {
        if (known[i] > most) continue;
        const bool better = chosen == known.size() || costs[i] < costs[chosen] ||
                            (costs[i] == costs[chosen] && known[i] < known[chosen]);
        if (better) chosen = i;
    }
    return chosen;
}

}  // namespace idistill::propagation
