#pragma once
// The scores of SelectIT (arXiv 2402.16705, section 3) from logits; the highest is best. NaN where a logit is not
// finite.

#include <span>

namespace idistill::influence {

/// What the spread of a sample's ratings takes from its score.
inline constexpr double rating_uncertainty = 0.2;

/// Of one rating conversation: (K) logits of the tokens of the ratings 1 to K. With P their softmax, which is the
/// model's probabilities over their sum, and S the most probable rating, the lowest of several:
/// S * 1/(K - 1) sum_{k != S} (P_S - P_k).
double token_score(std::span<const double> logits);

/// Of all conversations of a sample: (R) token scores, their mean / (1 + rating_uncertainty * their standard deviation)
/// (over R, not R - 1).
double sentence_score(std::span<const double> token_scores);

/// Of all models: (models) sentence scores, their mean weighted by numbers of parameters.
double model_score(std::span<const double> sentence_scores, std::span<const double> parameters);

}  // namespace idistill::influence
