#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace idistill::selection {
namespace {

constexpr double lambda_range = 1e-6;  // how far below its start lambda is searched
constexpr int most_refinements = 60;
constexpr double lambda_digits = 1e-9;

/// The next lambda between one that gives too few and one that gives enough: where log support, a straight line between
/// the two, meets log k, kept away from the ends; every third time the middle.
double between(const DualPoint& few, const DualPoint& enough, std::int64_t k, int turn) {
    const auto log_support = [](const DualPoint& point) { return std::log(static_cast<double>(point.report.support)); };
    const double low = log_support(few);
    const double part = (std::log(static_cast<double>(k)) - low) / (log_support(enough) - low);
    const double kept = turn % 3 == 2 ? 0.5 : std::clamp(part, 0.02, 0.98);
    return std::exp(std::log(few.report.lambda) +
                    kept * (std::log(enough.report.lambda) - std::log(few.report.lambda)));
}

}  // namespace

DualPoint smallest_support(WeightDual& dual, double lambda, std::int64_t k, const DualPoint& near) {
    auto few = dual.maximise(near, lambda);
    auto enough = few;
    for (double factor = 4.0; enough.report.support < k; factor *= 2.0) {  // ever larger: all rows have weight
        few = std::move(enough);
        enough = dual.maximise(few, few.report.lambda * factor);
    }
    auto best = enough;
    const auto keep = [&](const DualPoint& point) {
        if (point.report.support >= k && point.report.support < best.report.support) best = point;
    };
    while (few.report.support >= k && best.report.support > k && few.report.lambda > lambda * lambda_range) {
        enough = few;
        few = dual.maximise(few, few.report.lambda / 4.0);
        keep(few);
    }
    for (int turn = 0; turn < most_refinements && few.report.support < k && best.report.support > k; ++turn) {
        if (enough.report.lambda / few.report.lambda < 1.0 + 1e-12) break;
        auto middle = dual.maximise(enough, between(few, enough, k, turn));
        keep(middle);
        (middle.report.support >= k ? enough : few) = std::move(middle);
    }
    return best;
}

DualPoint nearest_support(WeightDual& dual, double lambda, std::int64_t k, std::int64_t rows, const DualPoint& near) {
    auto many = dual.maximise(near, lambda);
    while (k >= rows && many.report.support < rows) many = dual.maximise(many, 4.0 * many.report.lambda);
    if (k >= rows) return many;
    auto few = many;
    while (many.report.support <= k) {
        few = std::move(many);
        many = dual.maximise(few, 4.0 * few.report.lambda);
    }
    while (few.report.support > k && few.report.lambda > lambda_range * lambda) {
        many = std::move(few);
        few = dual.maximise(many, many.report.lambda / 4.0);
    }
    if (few.report.support > k) return nearest_support(dual, few.report.lambda, few.report.support, rows, few);
    while (many.report.lambda / few.report.lambda > 1.0 + lambda_digits) {
        auto middle = dual.maximise(many, std::sqrt(few.report.lambda * many.report.lambda));
        (middle.report.support <= k ? few : many) = std::move(middle);
    }
    return k - few.report.support <= many.report.support - k ? few : many;
}

}  // namespace idistill::selection
