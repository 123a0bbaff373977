#include "idistill/propagation/trust.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>

#include "idistill/base/finite.hpp"

namespace idistill::propagation {
namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

/// Subtracts the mean; exactly zero when all are equal, whatever the rounding of the mean.
void centre(std::vector<double>& values) {
    const bool constant = std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    const double mean = constant ? values.front() : sum / static_cast<double>(values.size());
    for (double& value : values) value -= mean;
}

/// False also of not-a-number.
bool varies(std::span<const double> values) {
    const auto [lowest, highest] = std::minmax_element(values.begin(), values.end());
    return !equal_but_for_rounding(*lowest, *highest);
}

double sum_of_products(std::span<const double> a, std::span<const double> b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Average ranks from 1 on; the values hold no NaN.
std::vector<double> ranks(std::span<const double> values) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
    std::vector<double> rank(values.size());
    for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
        while (last < order.size() && values[order[last]] == values[order[first]]) ++last;
        const double average = static_cast<double>(first + 1 + last) / 2.0;
        for (std::size_t i = first; i < last; ++i) rank[order[i]] = average;
    }
    return rank;
}

}  // namespace

double r_squared(std::span<const double> truth, std::span<const double> prediction) {
    if (truth.empty() || !varies(truth)) return undefined;
    std::vector<double> deviation(truth.begin(), truth.end());
    centre(deviation);
    const double total = sum_of_products(deviation, deviation);
    double error = 0.0;
    for (std::size_t i = 0; i < truth.size(); ++i) error += (truth[i] - prediction[i]) * (truth[i] - prediction[i]);
    return total > 0.0 ? 1.0 - error / total : undefined;
}

double spearman(std::span<const double> a, std::span<const double> b) {
    const auto is_nan = [](double value) { return std::isnan(value); };
    if (a.empty() || std::any_of(a.begin(), a.end(), is_nan) || std::any_of(b.begin(), b.end(), is_nan))
        return undefined;
    if (!varies(a) || !varies(b)) return undefined;
    auto x = ranks(a);
    auto y = ranks(b);
    centre(x);
    centre(y);
    const double scale = std::sqrt(sum_of_products(x, x)) * std::sqrt(sum_of_products(y, y));
    return scale > 0.0 ? sum_of_products(x, y) / scale : undefined;
}

double mean_of_numbers(const std::vector<double>& values) {
    double sum = 0.0, count = 0.0;
    for (const double value : values) {
        if (std::isnan(value)) continue;
        sum += value;
        count += 1.0;
    }
    return count > 0.0 ? sum / count : undefined;
}

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
