#include <boost/test/unit_test.hpp>
#include <limits>
#include <vector>

#include "idistill/base/finite.hpp"

using namespace idistill;

BOOST_AUTO_TEST_SUITE(finite)

BOOST_AUTO_TEST_CASE(one_value_that_is_not_finite_is_found_wherever_it_stands) {
    using limits = std::numeric_limits<float>;
    const std::vector<float> good{0.0F, -0.0F, limits::max(), limits::lowest(), limits::denorm_min(), -1.5F};
    BOOST_TEST((all_finite(good) && all_finite({})));
    for (const float bad : {limits::infinity(), -limits::infinity(), limits::quiet_NaN(), -limits::quiet_NaN()}) {
        for (std::size_t place = 0; place < good.size(); ++place) {
            auto values = good;
            values[place] = bad;
            BOOST_TEST(!all_finite(values), bad << " at " << place);
        }
    }
}

BOOST_AUTO_TEST_CASE(numbers_that_rounding_alone_parts_are_equal) {
    BOOST_TEST((equal_but_for_rounding(0.387, 0.387001) && equal_but_for_rounding(-0.387001, -0.387)));
    BOOST_TEST((equal_but_for_rounding(0.0, 0.0) && equal_but_for_rounding(-3.5, -3.5)));
    BOOST_TEST((!equal_but_for_rounding(0.387, 0.3871) && !equal_but_for_rounding(0.0, 1e-9)));
    BOOST_TEST(!equal_but_for_rounding(-1e-3, 1e-3));
}

BOOST_AUTO_TEST_SUITE_END()
