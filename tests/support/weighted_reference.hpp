#pragma once
// The weighted problem on dense matrices in long double: the minimiser by enumeration of all active sets, and how far
// given weights are from satisfying the optimality conditions.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "idistill/selection/weighted.hpp"

namespace idistill::test {

using Number = long double;
using selection::WeightedProblem;
using selection::Weights;

/// eta Q, dense, without clipped directions.
inline std::vector<Number> dense_curvature(const WeightedProblem& problem) {
    const std::size_t n = problem.row.size();
    const std::size_t width = problem.curvature.size();
    std::vector<Number> q(n * n, 0);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j)
            for (std::size_t t = 0; t < width; ++t)
                q[i * n + j] += static_cast<Number>(problem.factor[i * width + t]) * problem.factor[j * width + t] *
                                std::max(0.0, problem.curvature[t]) / static_cast<Number>(problem.pool_rows);
    return q;
}

inline std::vector<double> dense(const WeightedProblem& problem, const Weights& weights) {
    std::vector<double> all(problem.row.size(), 0.0);
    for (std::size_t i = 0; i < weights.row.size(); ++i) {
        const auto place = std::find(problem.row.begin(), problem.row.end(), weights.row[i]) - problem.row.begin();
        all[static_cast<std::size_t>(place)] = weights.weight[i];
    }
    return all;
}

inline Number objective(const WeightedProblem& problem, const std::vector<double>& w, double lambda) {
    const auto q = dense_curvature(problem);
    Number value = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
        value += -static_cast<Number>(problem.influence[i]) * w[i] + 0.5L * lambda * w[i] * w[i];
        for (std::size_t j = 0; j < w.size(); ++j) value += 0.5L * q[i * w.size() + j] * w[i] * w[j];
    }
    return value;
}

/// Solves the square system in place by elimination with pivoting; nothing where it is singular.
inline std::vector<Number> eliminate(std::vector<std::vector<Number>> a) {
    const std::size_t n = a.size();
    for (std::size_t c = 0; c < n; ++c) {
        std::size_t best = c;
        for (std::size_t r = c + 1; r < n; ++r)
            if (std::abs(a[r][c]) > std::abs(a[best][c])) best = r;
        std::swap(a[c], a[best]);
        if (std::abs(a[c][c]) < 1e-14L) return {};
        for (std::size_t r = 0; r < n; ++r) {
            if (r == c) continue;
            const Number ratio = a[r][c] / a[c][c];
            for (std::size_t k = c; k <= n; ++k) a[r][k] -= ratio * a[c][k];
        }
    }
    std::vector<Number> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = a[i][n] / a[i][i];
    return x;
}

/// Constraints that hold as equations: coefficients of w, and the right-hand side.
struct Equation {
    std::vector<Number> of_weight;
    Number value = 0;
};

/// The total, and the groups of the set bits.
inline std::vector<Equation> equations(const WeightedProblem& problem, unsigned full) {
    const std::size_t n = problem.row.size();
    std::vector<Equation> all{{std::vector<Number>(n, 1), static_cast<Number>(problem.pool_rows)}};
    for (std::size_t g = 0; g < problem.group_most.size(); ++g) {
        if ((full >> g & 1U) == 0) continue;
        all.push_back({std::vector<Number>(n, 0), static_cast<Number>(problem.group_most[g])});
        for (std::size_t i = 0; i < n; ++i)
            if (problem.group[i] == static_cast<std::int32_t>(g)) all.back().of_weight[i] = 1;
    }
    return all;
}

/// Whether these weights keep every limit, to 1e-10 of N.
inline bool keeps_limits(const WeightedProblem& problem, const std::vector<double>& w) {
    const Number slack = 1e-10L * static_cast<Number>(problem.pool_rows);
    std::vector<Number> of_group(problem.group_most.size(), 0);
    Number total = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
        if (w[i] < -slack || w[i] > problem.largest + slack) return false;
        total += w[i];
        if (!problem.group.empty() && problem.group[i] >= 0)
            of_group[static_cast<std::size_t>(problem.group[i])] += w[i];
    }
    for (std::size_t g = 0; g < of_group.size(); ++g)
        if (of_group[g] > problem.group_most[g] + slack) return false;
    return std::abs(total - static_cast<Number>(problem.pool_rows)) <= slack;
}

/// The stationary point with the given rows free and all others fixed at w, on the equations; empty where there is
/// none.
inline std::vector<double> stationary(const WeightedProblem& problem, const std::vector<Number>& q, double lambda,
                                      const std::vector<std::size_t>& in, std::vector<double> w,
                                      const std::vector<Equation>& on) {
    const std::size_t n = w.size();
    const std::size_t size = in.size() + on.size();
    std::vector<std::vector<Number>> system(size, std::vector<Number>(size + 1, 0));
    for (std::size_t a = 0; a < in.size(); ++a) {
        system[a][size] = problem.influence[in[a]];
        for (std::size_t j = 0; j < n; ++j) system[a][size] -= q[in[a] * n + j] * w[j];
        for (std::size_t b = 0; b < in.size(); ++b) system[a][b] = q[in[a] * n + in[b]] + (a == b ? lambda : 0.0);
        for (std::size_t e = 0; e < on.size(); ++e)
            system[a][in.size() + e] = system[in.size() + e][a] = on[e].of_weight[in[a]];
    }
    for (std::size_t e = 0; e < on.size(); ++e) {
        system[in.size() + e][size] = on[e].value;
        for (std::size_t j = 0; j < n; ++j) system[in.size() + e][size] -= on[e].of_weight[j] * w[j];
    }
    const auto x = eliminate(system);
    if (x.empty()) return {};
    for (std::size_t a = 0; a < in.size(); ++a) w[in[a]] = static_cast<double>(x[a]);
    return w;
}

/// The minimiser as the best feasible one among the stationary points of all ways in which rows can be 0, free or at
/// the largest weight, and groups full.
inline std::vector<double> by_enumeration(const WeightedProblem& problem, double lambda) {
    const std::size_t n = problem.row.size();
    const auto q = dense_curvature(problem);
    const unsigned states = std::isfinite(problem.largest) ? 3 : 2;
    std::vector<double> best;
    Number best_value = std::numeric_limits<Number>::infinity();
    unsigned ways = 1;
    for (std::size_t i = 0; i < n; ++i) ways *= states;
    for (unsigned way = 1; way < ways; ++way) {
        std::vector<std::size_t> in;
        std::vector<double> fixed(n, 0.0);
        for (unsigned i = 0, rest = way; i < n; ++i, rest /= states) {
            if (rest % states == 1) in.push_back(i);
            if (rest % states == 2) fixed[i] = problem.largest;
        }
        for (unsigned full = 0; full < 1U << problem.group_most.size(); ++full) {
            auto w = in.empty() ? fixed : stationary(problem, q, lambda, in, fixed, equations(problem, full));
            if (w.empty() || !keeps_limits(problem, w)) continue;
            if (const auto value = objective(problem, w, lambda); value < best_value) {
                best_value = value;
                best = std::move(w);
            }
            if (in.empty()) break;
        }
    }
    return best;
}

/// Largest violation of the optimality conditions, relative to the largest gradient; enough for a convex problem. Every
/// set of rows that share a multiplier must have one between the gradients of its rows that could have less weight and
/// those of its rows that could have more; a full group's must not be below the others'.
inline double violation(const WeightedProblem& problem, const Weights& weights) {
    const auto w = dense(problem, weights);
    const auto q = dense_curvature(problem);
    const std::size_t n = w.size();
    const std::size_t groups = problem.group_most.size();
    constexpr auto infinity = std::numeric_limits<Number>::infinity();
    std::vector<Number> of_group(groups + 1, 0), least(groups + 1, -infinity), most(groups + 1, infinity);
    Number total = 0, largest = 0;
    const auto group_of = [&](std::size_t i) {
        return problem.group.empty() || problem.group[i] < 0 ? groups : static_cast<std::size_t>(problem.group[i]);
    };
    for (std::size_t i = 0; i < n; ++i) of_group[group_of(i)] += w[i];
    const auto full = [&](std::size_t g) { return g < groups && of_group[g] >= problem.group_most[g] * (1 - 1e-10L); };
    Number worst = 0;
    for (std::size_t i = 0; i < n; ++i) {
        Number score = problem.influence[i] - weights.report.lambda * w[i];
        for (std::size_t j = 0; j < n; ++j) score -= q[i * n + j] * w[j];
        largest = std::max({largest, std::abs(score), static_cast<Number>(std::abs(problem.influence[i]))});
        const std::size_t pool = full(group_of(i)) ? group_of(i) : groups;
        if (w[i] < problem.largest) least[pool] = std::max(least[pool], score);
        if (w[i] > 0) most[pool] = std::min(most[pool], score);
        total += w[i];
    }
    for (std::size_t g = 0; g <= groups; ++g) {
        worst = std::max(worst, least[g] - most[g]);
        worst = std::max(worst, least[groups] - most[g]);  // moving weight from a full group to another must not gain
        if (g < groups) worst = std::max(worst, of_group[g] - problem.group_most[g]);
    }
    if (const Number nu = weights.report.threshold; std::isfinite(nu))
        worst = std::max({worst, least[groups] - nu, nu - most[groups]});
    for (const double weight : w) worst = std::max<Number>({worst, -weight, weight - problem.largest});
    const Number missing = std::abs(total / static_cast<Number>(problem.pool_rows) - 1);
    return static_cast<double>(std::max(worst / largest, missing));
}

}  // namespace idistill::test
