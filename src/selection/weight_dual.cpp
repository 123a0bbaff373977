#include "weight_dual.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

namespace idistill::selection {
namespace {

constexpr double small_gap = 1e-22;
constexpr double snapping = 1e-13;  // of the largest weight
constexpr int most_steps = 200;
constexpr int most_halvings = 40;

double dot(std::span<const double> a, std::span<const double> b) noexcept {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Four sums side by side, which do not wait for each other.
double dot(std::span<const float> a, std::span<const double> b) noexcept {
    std::array<double, 4> sums{};
    std::size_t t = 0;
    for (; t + 4 <= a.size(); t += 4)
        for (std::size_t i = 0; i < 4; ++i) sums[i] += static_cast<double>(a[t + i]) * b[t + i];
    for (; t < a.size(); ++t) sums[0] += static_cast<double>(a[t]) * b[t];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

std::vector<double> product(std::span<const double> a, std::span<const double> b) {
    std::vector<double> result(a.size());
    std::transform(a.begin(), a.end(), b.begin(), result.begin(), std::multiplies<>());
    return result;
}

std::vector<double> plus(std::span<const double> a, double step, std::span<const double> b) {
    std::vector<double> result(a.size());
    std::transform(a.begin(), a.end(), b.begin(), result.begin(), [step](double x, double y) { return x + step * y; });
    return result;
}

/// Places in the ascending `active` of the rows [begin, end).
std::pair<std::size_t, std::size_t> places(const std::vector<std::size_t>& active, std::size_t begin, std::size_t end) {
    const auto first = std::lower_bound(active.begin(), active.end(), begin);
    const auto last = std::lower_bound(first, active.end(), end);
    return {static_cast<std::size_t>(first - active.begin()), static_cast<std::size_t>(last - active.begin())};
}

}  // namespace

WeightDual::WeightDual(const BlockSums& sums, DualRows rows)
    : sums_(sums),
      rows_(std::move(rows)),
      thresholds_(sums, rows_.limits),
      width_(rows_.scale.size()),
      below_(rows_.influence.size()) {}

/// Scores relative to the largest: rows near the threshold keep their digits however small lambda is.
void WeightDual::compute_scores(std::span<const double> x) {
    const auto scaled = product(rows_.scale, x);
    double mine = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < below_.size(); ++i) {
        below_[i] = rows_.influence[i] - dot(rows_.factor.subspan(i * width_, width_), scaled);
        mine = std::max(mine, below_[i]);
    }
    highest_ = -std::numeric_limits<double>::infinity();
    for (const auto& part : sums_.communicator().all_gather(std::span<const double>(&mine, 1)))
        highest_ = std::max(highest_, part.front());
    for (double& score : below_) score -= highest_;
}

void WeightDual::weigh(DualPoint& point, const Thresholds& thresholds, double lambda) const {
    const auto& limits = rows_.limits;
    const bool grouped = !limits.group.empty();
    const bool capped = std::isfinite(limits.largest);
    for (std::size_t i = 0; i < below_.size(); ++i) {
        const double above = (grouped ? thresholds.of(limits.group[i]) : thresholds.common).distance(below_[i]);
        if (!(above > 0.0)) continue;
        double weight = above / lambda;
        if (capped) {  // within rounding of a limit is at it, so that ties do not decide how many there are
            if (weight <= snapping * limits.largest) continue;
            if (weight >= (1.0 - snapping) * limits.largest) weight = limits.largest;
        }
        point.active.push_back(i);
        point.weight.push_back(weight);
    }
    for (std::size_t g = 0; g < thresholds.group.size(); ++g) point.full.push_back(thresholds.full(g));
}

void WeightDual::sum_active(DualPoint& point, double lambda) const {
    // F'w, then p.w, |w|^2, the count, and the count at the largest weight.
    std::vector<double> sums(width_ + 4);
    sums_(
        [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
            const auto [first, last] = places(point.active, begin, end);
            for (std::size_t a = first; a < last; ++a) {
                const double weight = point.weight[a];
                const auto row = rows_.factor.subspan(point.active[a] * width_, width_);
                for (std::size_t t = 0; t < width_; ++t) of_block[t] += weight * static_cast<double>(row[t]);
                of_block[width_] += weight * rows_.influence[point.active[a]];
                of_block[width_ + 1] += weight * weight;
                of_block[width_ + 2] += 1.0;
                of_block[width_ + 3] += weight == rows_.limits.largest ? 1.0 : 0.0;
            }
        },
        sums);
    const auto products = product(rows_.scale, std::span<const double>(sums).first(width_));  // G'w
    point.support = static_cast<std::int64_t>(sums[width_ + 2]);
    point.largest = static_cast<std::int64_t>(sums[width_ + 3]);
    point.residual = plus(products, -1.0, point.x);
    const double gain = sums[width_];
    const double cost = 0.5 * dot(products, products) + 0.5 * lambda * sums[width_ + 1];
    point.objective = cost - gain;
    point.magnitude = cost + std::abs(gain);
    point.gap = 0.5 * dot(point.residual, point.residual);
}

std::optional<std::size_t> WeightDual::moves_with(const DualPoint& point, std::size_t a) const {
    if (point.weight[a] == rows_.limits.largest) return std::nullopt;
    if (point.full.empty()) return 0;
    const auto group = rows_.limits.group[point.active[a]];
    return group >= 0 && point.full[static_cast<std::size_t>(group)] ? static_cast<std::size_t>(group)
                                                                     : point.full.size();
}

/// One pass for each set of rows that move together: memory stays that of one mean, however many groups there are.
void WeightDual::find_means(DualPoint& point) const {
    point.mean.assign((point.full.size() + 1) * width_, 0.0);
    std::vector<double> sums(width_ + 1);
    for (std::size_t pool = 0; width_ > 0 && pool <= point.full.size(); ++pool) {
        if (pool < point.full.size() && !point.full[pool]) continue;
        sums_(
            [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
                const auto [first, last] = places(point.active, begin, end);
                for (std::size_t a = first; a < last; ++a) {
                    if (moves_with(point, a) != pool) continue;
                    const auto row = rows_.factor.subspan(point.active[a] * width_, width_);
                    for (std::size_t t = 0; t < width_; ++t) of_block[t] += static_cast<double>(row[t]);
                    of_block[width_] += 1.0;
                }
            },
            sums);
        for (std::size_t t = 0; t < width_ && sums[width_] > 0.0; ++t)
            point.mean[pool * width_ + t] = sums[t] / sums[width_];
    }
}

DualPoint WeightDual::evaluate(std::vector<double> x, double lambda, double near) {
    DualPoint point;
    point.x = std::move(x);
    compute_scores(point.x);
    const auto thresholds = thresholds_.find(below_, lambda, near - highest_);
    point.threshold = highest_ + thresholds.common.value();
    weigh(point, thresholds, lambda);
    sum_active(point, lambda);
    find_means(point);
    return point;
}

/// (I + C / lambda) direction.
std::vector<double> WeightDual::curvature_along(const DualPoint& point, double lambda,
                                                std::span<const double> direction) const {
    const auto scaled = product(rows_.scale, direction);
    std::vector<double> of_mean;
    for (std::size_t pool = 0; pool <= point.full.size(); ++pool)
        of_mean.push_back(dot(std::span<const double>(point.mean).subspan(pool * width_, width_), scaled));
    std::vector<double> sums(width_);
    sums_(
        [&](std::size_t begin, std::size_t end, std::span<double> of_block) {
            const auto [first, last] = places(point.active, begin, end);
            for (std::size_t a = first; a < last; ++a) {
                const auto pool = moves_with(point, a);
                if (!pool) continue;
                const auto row = rows_.factor.subspan(point.active[a] * width_, width_);
                const auto mean = std::span<const double>(point.mean).subspan(*pool * width_, width_);
                const double along = dot(row, scaled) - of_mean[*pool];
                for (std::size_t t = 0; t < width_; ++t) of_block[t] += along * (static_cast<double>(row[t]) - mean[t]);
            }
        },
        sums);
    return plus(direction, 1.0 / lambda, product(rows_.scale, sums));
}

/// Conjugate gradients on (I + C / lambda) d = residual, the sharper the nearer the maximum is.
std::vector<double> WeightDual::newton_direction(const DualPoint& point, double lambda) const {
    const double length = std::sqrt(2.0 * point.gap);
    const double tolerance = std::clamp(length / std::sqrt(2.0 * point.magnitude), 1e-10, 1e-2) * length;
    std::vector<double> direction(width_, 0.0);
    auto left = point.residual;
    auto search = left;
    double squared = dot(left, left);
    for (std::size_t step = 0; step < 2 * width_ + 10 && std::sqrt(squared) > tolerance; ++step) {
        const auto image = curvature_along(point, lambda, search);
        const double along = squared / dot(search, image);
        direction = plus(direction, along, search);
        left = plus(left, -along, image);
        const double before = std::exchange(squared, dot(left, left));
        search = plus(left, squared / before, search);
    }
    return direction;
}

DualPoint WeightDual::maximise(const DualPoint& start, double lambda, std::int64_t& iterations) {
    auto point = evaluate(start.x, lambda, start.threshold);
    for (int step = 0; step < most_steps && point.gap > small_gap * point.magnitude; ++step, ++iterations) {
        const auto direction = newton_direction(point, lambda);
        const double slope = dot(point.residual, direction);
        const double rounding = 1e-14 * point.magnitude;
        // A step is good when the dual rises, or where its digits end, near the maximum, when the residual falls.
        const auto is_good = [&](const DualPoint& next, double length) {
            const double rise = next.dual() - point.dual();
            return rise > 1e-4 * length * slope + rounding || (rise > -rounding && next.gap < 0.25 * point.gap);
        };
        double length = 1.0;
        std::optional<DualPoint> next;
        for (int halving = 0; halving < most_halvings; ++halving, length *= 0.5) {
            next = evaluate(plus(point.x, length, direction), lambda, point.threshold);
            if (is_good(*next, length)) break;
            next.reset();
            if (length < 0.01 && length * slope < rounding) break;
        }
        if (!next) break;
        point = std::move(*next);
    }
    return point;
}

}  // namespace idistill::selection
