#pragma once
// The weighted problem on dense matrices in long double: the minimiser by enumeration of all supports, and how far
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

/// Solves the square system in place by elimination with pivoting.
inline std::vector<Number> eliminate(std::vector<std::vector<Number>> a) {
    const std::size_t n = a.size();
    for (std::size_t c = 0; c < n; ++c) {
        std::size_t best = c;
        for (std::size_t r = c + 1; r < n; ++r)
            if (std::abs(a[r][c]) > std::abs(a[best][c])) best = r;
        std::swap(a[c], a[best]);
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

/// The minimiser as the best feasible one among the stationary points of all supports.
inline std::vector<double> by_enumeration(const WeightedProblem& problem, double lambda) {
    const std::size_t n = problem.row.size();
    const auto q = dense_curvature(problem);
    std::vector<double> best;
    Number best_value = std::numeric_limits<Number>::infinity();
    for (unsigned support = 1; support < 1U << n; ++support) {
        std::vector<std::size_t> in;
        for (std::size_t i = 0; i < n; ++i)
            if ((support >> i & 1U) != 0) in.push_back(i);
        std::vector<std::vector<Number>> system(in.size() + 1, std::vector<Number>(in.size() + 2, 0));
        for (std::size_t a = 0; a < in.size(); ++a) {
            for (std::size_t b = 0; b < in.size(); ++b) system[a][b] = q[in[a] * n + in[b]] + (a == b ? lambda : 0.0);
            system[a][in.size()] = system[in.size()][a] = 1;
            system[a][in.size() + 1] = problem.influence[in[a]];
        }
        system[in.size()][in.size() + 1] = static_cast<Number>(problem.pool_rows);
        const auto x = eliminate(system);
        std::vector<double> w(n, 0.0);
        bool feasible = true;
        for (std::size_t a = 0; a < in.size(); ++a) {
            w[in[a]] = static_cast<double>(x[a]);
            feasible = feasible && x[a] >= 0;
        }
        if (const auto value = objective(problem, w, lambda); feasible && value < best_value) {
            best_value = value;
            best = w;
        }
    }
    return best;
}

/// Largest violation of the optimality conditions, relative to the largest gradient; enough for a convex problem.
inline double violation(const WeightedProblem& problem, const Weights& weights) {
    const auto w = dense(problem, weights);
    const auto q = dense_curvature(problem);
    const std::size_t n = w.size();
    Number total = 0, largest = 0, worst = 0;
    for (std::size_t i = 0; i < n; ++i) {
        Number score = problem.influence[i] - weights.report.lambda * w[i];
        for (std::size_t j = 0; j < n; ++j) score -= q[i * n + j] * w[j];
        largest = std::max({largest, std::abs(score), static_cast<Number>(std::abs(problem.influence[i]))});
        const Number above = score - weights.report.threshold;
        worst = std::max(worst, w[i] > 0 ? std::abs(above) : above);
        total += w[i];
    }
    const Number missing = std::abs(total / static_cast<Number>(problem.pool_rows) - 1);
    return static_cast<double>(std::max(worst / largest, missing));
}

}  // namespace idistill::test
