#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdio>

#include "idistill/base/error.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"

using namespace idistill;
using namespace idistill::comm;

// What holds where MPI is not up; tests/ranks has the rest.

BOOST_AUTO_TEST_SUITE(process)

BOOST_AUTO_TEST_CASE(without_mpi_there_is_no_rank_and_no_communicator) {
    BOOST_TEST(MpiProcess::world_rank() == -1);
    BOOST_CHECK_EXCEPTION(make_mpi_communicator(1.0), Error,
                          [](const Error& error) { return error.code() == ExitCode::internal_error; });
}

BOOST_AUTO_TEST_CASE(abort_without_mpi_ends_the_process_with_its_code) {
    std::fflush(nullptr);  // or the child prints it again
    const pid_t child = fork();
    if (child == 0) MpiProcess::abort(static_cast<int>(ExitCode::restart_me));
    int status = 0;
    BOOST_REQUIRE(waitpid(child, &status, 0) == child);
    BOOST_TEST(WIFEXITED(status));
    BOOST_TEST(WEXITSTATUS(status) == 75);
}

BOOST_AUTO_TEST_CASE(host_has_a_name) { BOOST_TEST(!host_name().empty()); }

BOOST_AUTO_TEST_SUITE_END()
