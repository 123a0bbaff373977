// FNV-1a against its published values, and that values of several sizes do not run into each other.

#include <boost/test/unit_test.hpp>

#include "idistill/base/hash.hpp"

using namespace idistill;

namespace {

template <class... Values>
std::uint64_t hash_of(const Values&... values) {
    Hash hash;
    (hash.add(values), ...);
    return hash.value();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(hash)

BOOST_AUTO_TEST_CASE(bytes_are_hashed_as_published) {
    BOOST_TEST(hash_of() == 0xcbf29ce484222325ULL);
    BOOST_TEST(hash_of('a') == 0xaf63dc4c8601ec8cULL);
    BOOST_TEST(hash_of('f', 'o', 'o', 'b', 'a', 'r') == 0x85944171f73967e8ULL);
}

BOOST_AUTO_TEST_CASE(texts_and_arrays_enter_with_their_length) {
    using Numbers = std::vector<std::int32_t>;
    BOOST_TEST(hash_of(Numbers{1, 2}) == hash_of(std::size_t{2}, 1, 2));
    BOOST_TEST(hash_of(std::string("ab")) == hash_of(std::size_t{2}, 'a', 'b'));
    BOOST_TEST(hash_of(Numbers{1}, Numbers{2}) != hash_of(Numbers{1, 2}, Numbers{}));
    BOOST_TEST(hash_of(std::string("ab"), std::string("c")) != hash_of(std::string("a"), std::string("bc")));
}

BOOST_AUTO_TEST_CASE(order_and_values_count) {
    BOOST_TEST(hash_of(1, 2) != hash_of(2, 1));
    BOOST_TEST(hash_of(0.5) != hash_of(0.25));
    BOOST_TEST(hash_of(std::int64_t{1}) != hash_of(std::int32_t{1}));
}

BOOST_AUTO_TEST_SUITE_END()
