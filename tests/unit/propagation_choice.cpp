// The rule of --embedding auto.

#include <boost/test/unit_test.hpp>
#include <limits>
#include <vector>

#include "idistill/propagation/trust.hpp"

using idistill::propagation::cheapest_near_best;

BOOST_AUTO_TEST_SUITE(propagation_choice)

BOOST_AUTO_TEST_CASE(the_cheapest_within_the_slack_of_the_best_is_taken) {
    const auto choose = [](const std::vector<double>& errors, const std::vector<double>& costs) {
        return cheapest_near_best(errors, costs, 1.02);
    };
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    BOOST_TEST(choose({0.5, 0.4, 0.3}, {1, 2, 3}) == 2U);
    BOOST_TEST(choose({0.305, 0.4, 0.3}, {1, 2, 3}) == 0U);    // 1.7 % worse for a third of the cost
    BOOST_TEST(choose({0.307, 0.4, 0.3}, {1, 2, 3}) == 2U);    // 2.3 % worse
    BOOST_TEST(choose({0.303, 0.301, 0.3}, {2, 2, 3}) == 1U);  // equal costs: less error
    BOOST_TEST(choose({0.3, 0.3}, {2, 2}) == 0U);
    BOOST_TEST(choose({none, 0.9}, {1, 2}) == 1U);
    BOOST_TEST(choose({none, none, none}, {3, 1, 2}) == 1U);
    BOOST_TEST(choose({0.0, 0.1}, {2, 1}) == 0U);
}

BOOST_AUTO_TEST_SUITE_END()
