#include "idistill/propagation/trust.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>

namespace idistill::propagation {
namespace {

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

using Members = std::vector<std::size_t>;

/// Subtracts the members' mean; exactly zero when they are all equal, whatever the rounding of the mean.
void centre(std::vector<double>& values, const Members& members) {
    double sum = 0.0;
    bool constant = true;
    for (const std::size_t i : members) {
        sum += values[i];
        constant = constant && values[i] == values[members.front()];
    }
    const double mean = constant ? values[members.front()] : sum / static_cast<double>(members.size());
    for (const std::size_t i : members) values[i] -= mean;
}

Members everything(std::size_t size) {
    Members members(size);
    std::iota(members.begin(), members.end(), std::size_t{0});
    return members;
}

double sum_of_products(std::span<const double> a, std::span<const double> b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Average ranks from 1 on; the values hold no NaN.
std::vector<double> ranks(std::span<const double> values) {
    Members order = everything(values.size());
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
    if (truth.empty()) return undefined;
    std::vector<double> deviation(truth.begin(), truth.end());
    centre(deviation, everything(truth.size()));
    const double total = sum_of_products(deviation, deviation);
    double error = 0.0;
    for (std::size_t i = 0; i < truth.size(); ++i) error += (truth[i] - prediction[i]) * (truth[i] - prediction[i]);
    return total > 0.0 ? 1.0 - error / total : undefined;
}

double spearman(std::span<const double> a, std::span<const double> b) {
    const auto is_nan = [](double value) { return std::isnan(value); };
    if (a.empty() || std::any_of(a.begin(), a.end(), is_nan) || std::any_of(b.begin(), b.end(), is_nan))
        return undefined;
    auto x = ranks(a);
    auto y = ranks(b);
    centre(x, everything(x.size()));
    centre(y, everything(y.size()));
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
    return count > 0.0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace idistill::propagation
