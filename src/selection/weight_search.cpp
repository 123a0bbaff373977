#include "weight_search.hpp"

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
double between(const Solved& few, const Solved& enough, std::int64_t k, int turn) {
    const auto log_support = [](const Solved& solved) { return std::log(static_cast<double>(solved.point.support)); };
    const double low = log_support(few);
    const double part = (std::log(static_cast<double>(k)) - low) / (log_support(enough) - low);
    const double kept = turn % 3 == 2 ? 0.5 : std::clamp(part, 0.02, 0.98);
    return std::exp(std::log(few.lambda) + kept * (std::log(enough.lambda) - std::log(few.lambda)));
}

}  // namespace

Solved smallest_support(WeightDual& dual, double lambda, std::int64_t k, const DualPoint& near,
                        std::int64_t& iterations) {
    const auto solve = [&](double at, const DualPoint& start) {
        return Solved{at, dual.maximise(start, at, iterations)};
    };
    Solved few = solve(lambda, near);
    Solved enough = few;
    for (double factor = 4.0; enough.point.support < k; factor *= 2.0) {  // ever larger: all rows have weight
        few = std::move(enough);
        enough = solve(few.lambda * factor, few.point);
    }
    Solved best = enough;
    const auto keep = [&](const Solved& solved) {
        if (solved.point.support >= k && solved.point.support < best.point.support) best = solved;
    };
    while (few.point.support >= k && best.point.support > k && few.lambda > lambda * lambda_range) {
        enough = few;
        few = solve(few.lambda / 4.0, few.point);
        keep(few);
    }
    for (int turn = 0; turn < most_refinements && few.point.support < k && best.point.support > k; ++turn) {
        if (enough.lambda / few.lambda < 1.0 + 1e-12) break;
        auto middle = solve(between(few, enough, k, turn), enough.point);
        keep(middle);
        (middle.point.support >= k ? enough : few) = std::move(middle);
    }
    return best;
}

Solved nearest_support(WeightDual& dual, double lambda, std::int64_t k, std::int64_t rows, const DualPoint& near) {
    std::int64_t no_steps = 0;
    const auto solve = [&](double at, const DualPoint& start) {
        return Solved{at, dual.maximise(start, at, no_steps)};
    };
    Solved many = solve(lambda, near);
    while (k >= rows && many.point.support < rows) many = solve(4.0 * many.lambda, many.point);
    if (k >= rows) return many;
    Solved few = many;
    while (many.point.support <= k) {
        few = std::move(many);
        many = solve(4.0 * few.lambda, few.point);
    }
    while (few.point.support > k && few.lambda > lambda_range * lambda) {
        many = std::move(few);
        few = solve(many.lambda / 4.0, many.point);
    }
    if (few.point.support > k) return nearest_support(dual, few.lambda, few.point.support, rows, few.point);
    while (many.lambda / few.lambda > 1.0 + lambda_digits) {
        Solved middle = solve(std::sqrt(few.lambda * many.lambda), many.point);
        (middle.point.support <= k ? few : many) = std::move(middle);
    }
    return k - few.point.support <= many.point.support - k ? few : many;
}

}  // namespace idistill::selection
