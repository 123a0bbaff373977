// Measures of agreement against values worked out by hand.
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "idistill/propagation/trust.hpp"

using namespace idistill::propagation;
using Values = std::vector<double>;

BOOST_AUTO_TEST_SUITE(propagation_trust)

BOOST_AUTO_TEST_CASE(r_squared_by_hand) {
    // mean 2.5, SST 5; errors 1, 0, 0, -1: SSE 2
    BOOST_TEST(r_squared(Values{1, 2, 3, 4}, Values{0, 2, 3, 5}) == 1.0 - 2.0 / 5.0);
    BOOST_TEST(r_squared(Values{1, 2, 3, 4}, Values{2.5, 2.5, 2.5, 2.5}) == 0.0);
    BOOST_TEST(r_squared(Values{1, 2, 3, 4}, Values{1, 2, 3, 4}) == 1.0);
    BOOST_TEST(std::isnan(r_squared(Values{0.1, 0.1, 0.1}, Values{1, 2, 3})));
    BOOST_TEST(std::isnan(r_squared(Values{0.1}, Values{0.1})));
    BOOST_TEST(std::isnan(r_squared(Values{}, Values{})));
}

BOOST_AUTO_TEST_CASE(spearman_by_hand) {
    BOOST_TEST(spearman(Values{1, 2, 3, 4}, Values{10, 100, 1000, 10000}) == 1.0, boost::test_tools::tolerance(1e-14));
    BOOST_TEST(spearman(Values{1, 2, 3, 4}, Values{4, 3, 2, 1}) == -1.0, boost::test_tools::tolerance(1e-14));
    // without ties 1 - 6 sum d^2 / (n (n^2 - 1)): d = 1, 1, 1, 1, 0
    BOOST_TEST(spearman(Values{1, 2, 3, 4, 5}, Values{2, 1, 4, 3, 5}) == 1.0 - 6.0 * 4.0 / 120.0,
               boost::test_tools::tolerance(1e-14));
    // ranks 1.5, 1.5, 3, 4 and 1, 3, 3, 3: deviations -1, -1, .5, 1.5 and -1.5, .5, .5, .5
    BOOST_TEST(spearman(Values{5, 5, 6, 7}, Values{0, 9, 9, 9}) == 2.0 / std::sqrt(4.5 * 3.0),
               boost::test_tools::tolerance(1e-14));
    BOOST_TEST(std::isnan(spearman(Values{1, 1, 1}, Values{1, 2, 3})));
    BOOST_TEST(std::isnan(spearman(Values{1, 2, 3}, Values{1, NAN, 3})));
    BOOST_TEST(std::isnan(spearman(Values{}, Values{})));
}

BOOST_AUTO_TEST_SUITE_END()
