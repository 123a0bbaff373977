#include "closed_form.hpp"

#include <algorithm>
#include <vector>

#include "order_statistics.hpp"

namespace idistill::selection {
namespace {

/// Rows of largest p that can have weight without the others: k, or where p is tied there, the nearest other count.
std::int64_t reachable_count(comm::Communicator& communicator, std::span<const double> influence, std::int64_t k) {
    const auto around = count_above(communicator, influence, nth_largest(communicator, influence, k));
    const bool lower = around.strictly > 0 && k - around.strictly <= around.at_least - k;
    return around.at_least == k || !lower ? around.at_least : around.strictly;
}

}  // namespace

ClosedForm closed_form(const BlockSums& sums, std::span<const double> influence, std::int64_t k, std::int64_t rows) {
    auto& communicator = sums.communicator();
    ClosedForm form;
    form.count = reachable_count(communicator, influence, k);
    if (form.count < rows) {
        form.threshold = nth_largest(communicator, influence, form.count + 1);
    } else {
        const double lowest = nth_largest(communicator, influence, rows);
        form.threshold = lowest - (sums.sum(influence) / static_cast<double>(rows) - lowest);
        if (nth_largest(communicator, influence, 1) == lowest) form.threshold = lowest;
    }
    std::vector<double> above(influence.size());
    std::transform(influence.begin(), influence.end(), above.begin(),
                   [&](double p) { return std::max(0.0, p - form.threshold); });
    form.excess = sums.sum(above);
    return form;
}

double linear_objective(const BlockSums& sums, const WeightedProblem& problem, const Weights& weights, double lambda) {
    std::vector<double> terms(problem.row.size(), 0.0);
    std::size_t next = 0;
    for (std::size_t i = 0; i < terms.size() && next < weights.row.size(); ++i) {
        if (problem.row[i] != weights.row[next]) continue;
        const double weight = weights.weight[next++];
        terms[i] = 0.5 * lambda * weight * weight - problem.influence[i] * weight;
    }
    return sums.sum(terms);
}

Weights closed_form_weights(const BlockSums& sums, const WeightedProblem& problem, const ClosedForm& form) {
    const auto total = static_cast<double>(problem.pool_rows);
    Weights weights;
    for (std::size_t i = 0; i < problem.row.size(); ++i) {
        const double above = problem.influence[i] - form.threshold;
        if (form.excess > 0.0 && !(above > 0.0)) continue;
        weights.row.push_back(problem.row[i]);
        weights.weight.push_back(form.excess > 0.0 ? total * (above / form.excess)
                                                   : total / static_cast<double>(form.count));
    }
    weights.report.lambda = form.excess / total;
    weights.report.threshold = form.threshold;
    weights.report.support = weights.report.reachable = form.count;
    weights.report.objective = linear_objective(sums, problem, weights, weights.report.lambda);
    return weights;
}

}  // namespace idistill::selection
