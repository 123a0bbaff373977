// The scores of SelectIT by hand, and where the released code has others.

#include <array>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "idistill/influence/selectit/score.hpp"

using namespace idistill::influence;

namespace {

constexpr double tolerance = 1e-12;

/// Logits whose probabilities over all tokens these are, but for a factor.
std::vector<double> logits_of(std::vector<double> probabilities) {
    for (double& p : probabilities) p = std::log(p);
    return probabilities;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_selectit)

BOOST_AUTO_TEST_CASE(token_score_is_the_rating_times_its_lead) {
    // Rating 3 leads by 0.3, 0.2, 0.2 and 0.3.
    BOOST_TEST(std::abs(token_score(logits_of({0.1, 0.2, 0.4, 0.2, 0.1})) - 3.0 * 0.25) < tolerance);
    BOOST_TEST(std::abs(token_score(logits_of({0.25, 0.75})) - 2.0 * 0.5) < tolerance);
}

BOOST_AUTO_TEST_CASE(ratings_are_compared_among_themselves) {
    // Most of the probability is on tokens that are no rating, or the logits are large.
    BOOST_TEST(std::abs(token_score(logits_of({1e-9, 2e-9, 4e-9, 2e-9, 1e-9})) - 0.75) < tolerance);
    const std::vector<double> large{1000.0, 1000.0 + std::log(3.0)};
    BOOST_TEST(std::abs(token_score(large) - 1.0) < 1e-9);
}

BOOST_AUTO_TEST_CASE(equal_chances_are_no_opinion_and_ties_go_to_the_lower_rating) {
    BOOST_TEST(token_score(std::vector<double>(5, 0.5)) == 0.0);
    BOOST_TEST(std::abs(token_score(logits_of({0.2, 0.4, 0.4})) - 2.0 * 0.1) < tolerance);
}

BOOST_AUTO_TEST_CASE(a_logit_that_is_not_finite_gives_no_score) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
        BOOST_TEST(std::isnan(token_score(std::vector<double>{0.0, bad, 1.0})));
}

BOOST_AUTO_TEST_CASE(sentence_score_takes_off_for_spread) {
    BOOST_TEST(std::abs(sentence_score(std::vector<double>{1.0, 3.0}) - 2.0 / 1.2) <
               tolerance);  // spread over R, not R - 1
    BOOST_TEST(sentence_score(std::vector<double>{0.75}) == 0.75);
    BOOST_TEST(sentence_score(std::vector<double>(5, 2.0)) == 2.0);
}

BOOST_AUTO_TEST_CASE(model_score_is_a_mean_by_parameters) {
    BOOST_TEST(std::abs(model_score(std::vector<double>{1.0, 2.0}, std::vector<double>{1e6, 3e6}) - 1.75) < tolerance);
    // The released weights 7/20, 13/20 and 70/90 of three models sum to 1.78: no mean.
    const std::vector<double> equal(3, 2.0);
    BOOST_TEST(std::abs(model_score(equal, std::vector<double>{7e9, 13e9, 70e9}) - 2.0) < tolerance);
}

// NN-CIFT's code takes the softmax of the probabilities once more, so that all leads come tolerance to each other, and
// then the lowest scores.
BOOST_AUTO_TEST_CASE(a_further_softmax_is_another_score) {
    const std::array<double, 5> sure{0.01, 0.01, 0.01, 0.01, 0.96};
    const std::vector<double> logits = logits_of({sure.begin(), sure.end()});
    BOOST_TEST(std::abs(token_score(logits) - 5.0 * 0.95) < tolerance);
    const std::vector<double> again(sure.begin(), sure.end());  // its softmax is taken
    const double released = 5.0 * (std::exp(0.96) - std::exp(0.01)) / (std::exp(0.96) + 4.0 * std::exp(0.01));
    BOOST_TEST(std::abs(token_score(again) - released) < tolerance);
    BOOST_TEST(token_score(logits) > 3.0 * released);
    // A sure 5 comes before a sure 1, which the lowest would come first.
    BOOST_TEST(token_score(logits) > token_score(logits_of({0.96, 0.01, 0.01, 0.01, 0.01})));
}

BOOST_AUTO_TEST_SUITE_END()
