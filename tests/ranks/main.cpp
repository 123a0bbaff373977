// Boost.Test under mpirun: MPI is started once, and a failing check on any rank ends the job with a failure.

#define BOOST_TEST_NO_MAIN
#define BOOST_TEST_ALTERNATIVE_INIT_API
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <exception>
#include <memory>

#include "idistill/comm/mpi.hpp"
#include "ranks.hpp"

namespace {

std::unique_ptr<idistill::comm::Communicator> communicator;

bool init() { return true; }

}  // namespace

idistill::comm::Communicator& idistill::test::world() { return *communicator; }

int main(int argc, char** argv) {
    using idistill::comm::MpiProcess;
    try {
        MpiProcess process(argc, argv);
        communicator = idistill::comm::make_mpi_communicator(30.0);
        const int code = boost::unit_test::unit_test_main(&init, argc, argv);
        if (code != 0) MpiProcess::abort(code);  // the others may wait for what this rank did not do
        communicator.reset();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", MpiProcess::world_rank(), error.what());
        MpiProcess::abort(1);
    }
}
