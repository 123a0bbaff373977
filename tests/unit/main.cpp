#define BOOST_TEST_MODULE idistill
#include <boost/test/unit_test.hpp>
