#include "idistill/influence/selectit/score.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace idistill::influence {

double token_score(std::span<const double> logits) {
    for (const double logit : logits)
        if (!std::isfinite(logit)) return std::numeric_limits<double>::quiet_NaN();
    const auto best = std::max_element(logits.begin(), logits.end());
    std::vector<double> probability;
    for (const double logit : logits) probability.push_back(std::exp(logit - *best));
    const double sum = std::accumulate(probability.begin(), probability.end(), 0.0);
    double lead = 0.0;
    for (const double own : probability) lead += (1.0 - own) / sum;  // exp(0) is the best's
    const auto rating = static_cast<double>(best - logits.begin() + 1);
    return rating * lead / static_cast<double>(logits.size() - 1);
}

double sentence_score(std::span<const double> token_scores) {
    const auto count = static_cast<double>(token_scores.size());
    const double mean = std::accumulate(token_scores.begin(), token_scores.end(), 0.0) / count;
    double squares = 0.0;
    for (const double score : token_scores) squares += (score - mean) * (score - mean);
    return mean / (1.0 + rating_uncertainty * std::sqrt(squares / count));
}

double model_score(std::span<const double> sentence_scores, std::span<const double> parameters) {
    const double all = std::accumulate(parameters.begin(), parameters.end(), 0.0);
    return std::inner_product(sentence_scores.begin(), sentence_scores.end(), parameters.begin(), 0.0) / all;
}

}  // namespace idistill::influence
