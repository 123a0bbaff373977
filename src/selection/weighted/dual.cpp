#include "dual.hpp"

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

}  // namespace

WeightDual::WeightDual(const BlockSums& sums, const WeightedProblem& problem)
    : sums_(sums), problem_(problem), thresholds_(sums, problem) {
    for (const double curvature : problem.curvature)
        scale_.push_back(std::sqrt(std::max(0.0, curvature) / problem.total()));
}

double WeightDual::trace() const {
    const auto add = [&](std::size_t i, std::span<double> sums) {
        const auto row = factor(i);
        for (std::size_t t = 0; t < row.size(); ++t) {
            const double entry = scale_[t] * static_cast<double>(row[t]);
            sums[0] += entry * entry;
        }
    };
    return sums_(1, add).front();
}

DualPoint WeightDual::origin() const {
    DualPoint origin;
    origin.x.assign(scale_.size(), 0.0);
    return origin;
}

/// Scores relative to the largest: rows near the threshold keep their digits however small lambda is.
void WeightDual::compute_scores(std::span<const double> x) {
    const auto scaled = product(scale_, x);
    below_.resize(problem_.influence.size());
    double mine = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < below_.size(); ++i) {
        below_[i] = problem_.influence[i] - dot(factor(i), scaled);
        mine = std::max(mine, below_[i]);
    }
    highest_ = -std::numeric_limits<double>::infinity();
    for (const auto& part : sums_.communicator().all_gather(std::span<const double>(&mine, 1)))
        highest_ = std::max(highest_, part.front());
    for (double& score : below_) score -= highest_;
}

void WeightDual::weigh(DualPoint& point, const Thresholds& thresholds) const {
    const double largest = problem_.largest;
    const bool grouped = !problem_.group.empty();
    const bool capped = std::isfinite(largest);
    for (std::size_t i = 0; i < below_.size(); ++i) {
        const double above = (grouped ? thresholds.of(problem_.group[i]) : thresholds.common).distance(below_[i]);
        if (!(above > 0.0)) continue;
        double weight = above / point.report.lambda;
        if (capped) {  // within rounding of a limit is at it, so that ties do not decide how many there are
            if (weight <= snapping * largest) continue;
            if (weight >= (1.0 - snapping) * largest) weight = largest;
        }
        point.active.push_back(i);
        point.weight.push_back(weight);
    }
    for (std::size_t g = 0; g < thresholds.group.size(); ++g) {
        point.full.push_back(thresholds.full(g));
        if (point.full[g]) point.report.full.push_back(static_cast<std::int32_t>(g));
    }
}

void WeightDual::sum_active(DualPoint& point) const {
    // F'w, then p.w, |w|^2, the count, and the count at the largest weight.
    const std::size_t width = scale_.size();
    const auto sums = sums_(point.active, width + 4, [&](std::size_t a, std::span<double> of_block) {
        const double weight = point.weight[a];
        const auto row = factor(point.active[a]);
        for (std::size_t t = 0; t < width; ++t) of_block[t] += weight * static_cast<double>(row[t]);
        of_block[width] += weight * problem_.influence[point.active[a]];
        of_block[width + 1] += weight * weight;
        of_block[width + 2] += 1.0;
        of_block[width + 3] += weight == problem_.largest ? 1.0 : 0.0;
    });
    const auto products = product(scale_, std::span(sums).first(width));  // G'w
    point.report.support = point.report.reachable = static_cast<std::int64_t>(sums[width + 2]);
    point.report.largest = static_cast<std::int64_t>(sums[width + 3]);
    point.residual = plus(products, -1.0, point.x);
    const double gain = sums[width];
    const double cost = 0.5 * dot(products, products) + 0.5 * point.report.lambda * sums[width + 1];
    point.report.objective = cost - gain;
    point.magnitude = cost + std::abs(gain);
    point.report.gap = 0.5 * dot(point.residual, point.residual);
}

std::optional<std::size_t> WeightDual::moves_with(const DualPoint& point, std::size_t a) const {
    if (point.weight[a] == problem_.largest) return std::nullopt;
    if (point.full.empty()) return 0;
    const auto group = problem_.group[point.active[a]];
    return group >= 0 && point.full[static_cast<std::size_t>(group)] ? static_cast<std::size_t>(group)
                                                                     : point.full.size();
}

/// One pass for each set of rows that move together: memory stays that of one mean, however many groups there are.
void WeightDual::find_means(DualPoint& point) const {
    const std::size_t width = scale_.size();
    point.mean.assign((point.full.size() + 1) * width, 0.0);
    for (std::size_t pool = 0; width > 0 && pool <= point.full.size(); ++pool) {
        if (pool < point.full.size() && !point.full[pool]) continue;
        const auto sums = sums_(point.active, width + 1, [&](std::size_t a, std::span<double> of_block) {
            if (moves_with(point, a) != pool) return;
            const auto row = factor(point.active[a]);
            for (std::size_t t = 0; t < width; ++t) of_block[t] += static_cast<double>(row[t]);
            of_block[width] += 1.0;
        });
        for (std::size_t t = 0; t < width && sums[width] > 0.0; ++t)
            point.mean[pool * width + t] = sums[t] / sums[width];
    }
}

DualPoint WeightDual::evaluate(std::vector<double> x, double lambda, double near) {
    DualPoint point;
    point.report.lambda = lambda;
    point.x = std::move(x);
    compute_scores(point.x);
    const auto thresholds = thresholds_.find(below_, lambda, near - highest_);
    point.report.threshold = highest_ + thresholds.common.value();
    weigh(point, thresholds);
    sum_active(point);
    find_means(point);
    return point;
}

/// (I + C / lambda) direction.
std::vector<double> WeightDual::curvature_along(const DualPoint& point, std::span<const double> direction) const {
    const std::size_t width = scale_.size();
    const auto scaled = product(scale_, direction);
    const auto mean_of = [&](std::size_t pool) {
        return std::span<const double>(point.mean).subspan(pool * width, width);
    };
    std::vector<double> of_mean;
    for (std::size_t pool = 0; pool <= point.full.size(); ++pool) of_mean.push_back(dot(mean_of(pool), scaled));
    const auto sums = sums_(point.active, width, [&](std::size_t a, std::span<double> of_block) {
        const auto pool = moves_with(point, a);
        if (!pool) return;
        const auto row = factor(point.active[a]);
        const auto mean = mean_of(*pool);
        const double along = dot(row, scaled) - of_mean[*pool];
        for (std::size_t t = 0; t < width; ++t) of_block[t] += along * (static_cast<double>(row[t]) - mean[t]);
    });
    return plus(direction, 1.0 / point.report.lambda, product(scale_, sums));
}

/// Conjugate gradients on (I + C / lambda) d = residual, the sharper the nearer the maximum is.
std::vector<double> WeightDual::newton_direction(const DualPoint& point) const {
    const double length = std::sqrt(2.0 * point.report.gap);
    const double tolerance = std::clamp(length / std::sqrt(2.0 * point.magnitude), 1e-10, 1e-2) * length;
    std::vector<double> direction(scale_.size(), 0.0);
    auto left = point.residual;
    auto search = left;
    double squared = dot(left, left);
    for (std::size_t step = 0; step < 2 * scale_.size() + 10 && std::sqrt(squared) > tolerance; ++step) {
        const auto image = curvature_along(point, search);
        const double along = squared / dot(search, image);
        direction = plus(direction, along, search);
        left = plus(left, -along, image);
        const double before = std::exchange(squared, dot(left, left));
        search = plus(left, squared / before, search);
    }
    return direction;
}

DualPoint WeightDual::maximise(const DualPoint& start, double lambda) {
    auto point = evaluate(start.x, lambda, start.report.threshold);
    for (int step = 0; step < most_steps && point.report.gap > small_gap * point.magnitude; ++step, ++newton_steps_) {
        const auto direction = newton_direction(point);
        const double slope = dot(point.residual, direction);
        const double rounding = 1e-14 * point.magnitude;
        // A step is good when the dual rises, or where its digits end, near the maximum, when the residual falls.
        const auto is_good = [&](const DualPoint& next, double length) {
            const double rise = next.dual() - point.dual();
            return rise > 1e-4 * length * slope + rounding ||
                   (rise > -rounding && next.report.gap < 0.25 * point.report.gap);
        };
        double length = 1.0;
        std::optional<DualPoint> next;
        for (int halving = 0; halving < most_halvings; ++halving, length *= 0.5) {
            next = evaluate(plus(point.x, length, direction), lambda, point.report.threshold);
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
