// A job of ranks with GPUs that does nothing but all-reduce and broadcast device memory, for its failures:
//     device_job STALL_TIMEOUT ROUNDS
// It ends as the program does: with the cause, and the exit code that goes with it.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <stdexcept>
#include <vector>

#include "device_memory.hpp"
#include "idistill/comm/device_collectives.hpp"
#include "idistill/comm/mpi.hpp"

namespace {

using namespace idistill;
using namespace idistill::comm;

void work(double stall_timeout, int rounds) {
    const auto ranks = make_mpi_communicator(stall_timeout);
    test::load_cuda();
    const auto library = connect_devices(*ranks, 1000);
    if (ranks->is_root()) std::printf("%s, %d ranks\n", library.c_str(), ranks->size());
    std::fflush(stdout);
    test::DeviceMemory<std::int64_t> values(3500);
    for (int round = 0; round < rounds; ++round) {
        values.write(std::vector<std::int64_t>(3500, ranks->rank() + round));
        ranks->device()->all_reduce(values.span(), Reduction::sum);
        ranks->device()->broadcast(values.span(), round % ranks->size());
        const auto expected = ranks->size() * (ranks->size() - 1) / 2 + ranks->size() * round;
        if (values.read() != std::vector<std::int64_t>(3500, expected)) throw std::runtime_error("wrong sums");
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const MpiProcess process(argc, argv);
        try {
            work(std::atof(argv[1]), std::atoi(argv[2]));
            return 0;
        } catch (const Error& error) {
            MpiProcess::end_job(error);
        }
    } catch (const std::exception& error) {
        MpiProcess::end_job(error.what(), ExitCode::internal_error);
    }
}
