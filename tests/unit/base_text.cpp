// Words and numbers in messages.

#include <boost/test/unit_test.hpp>
#include <vector>

#include "idistill/base/text.hpp"

using namespace idistill;

namespace {

using Words = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_SUITE(text)

BOOST_AUTO_TEST_CASE(lists_and_quotes) {
    BOOST_TEST((alternatives(Words{"a"}) == "a" && alternatives(Words{"a", "b"}) == "a or b"));
    BOOST_TEST((alternatives(Words{"a", "b", "c"}) == "a, b or c" && alternatives(Words{}) == ""));
    BOOST_TEST(in_quotes("a b") == "'a b'");
}

BOOST_AUTO_TEST_CASE(bytes_have_three_digits) {
    BOOST_TEST((shown_bytes(0) == "0 B" && shown_bytes(999) == "999 B" && shown_bytes(1500) == "1.50 kB"));
    BOOST_TEST((shown_bytes(9.995e6) == "10.0 MB" && shown_bytes(99.95e9) == "100 GB"));
    BOOST_TEST((shown_bytes(999.6) == "1.00 kB" && shown_bytes(5e18) == "5000 PB"));
}

BOOST_AUTO_TEST_CASE(numbers_are_read_whole) {
    BOOST_TEST((shortest(0.1) == "0.1" && shortest(1e300) == "1e+300" && shortest(3) == "3"));
    BOOST_TEST((whole<int>("12") == 12 && !whole<int>("12x") && !whole<int>("") && !whole<int>(" 1")));
    BOOST_TEST((whole<double>("2.5") == 2.5 && !whole<int>("2.5") && !whole<std::int8_t>("128")));
}

BOOST_AUTO_TEST_CASE(what_may_have_been_meant) {
    BOOST_TEST((edit_distance("jpv", "jvp") == 1U && edit_distance("", "abc") == 3U));
    BOOST_TEST((edit_distance("abc", "abc") == 0U && edit_distance("kitten", "sitting") == 3U));
    const Words names{"jvp", "hidden", "landmarks"};
    BOOST_TEST((nearest("jpv", names) == "jvp" && nearest("hiden", names) == "hidden"));
    BOOST_TEST((nearest("landmrk", names) == "landmarks" && nearest("lndmks", names) == "landmarks"));
    BOOST_TEST((nearest("none", names) == "" && nearest("jvp", Words{}) == ""));
    BOOST_TEST((nearest("ab", Words{"abc", "abd"}) == "abc"), "the first of equals");
}

BOOST_AUTO_TEST_SUITE_END()
