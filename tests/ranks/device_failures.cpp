// What fails between ranks with GPUs, by failures that fake_nccl.cpp injects.

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <string>

#include "device_ranks.hpp"
#include "failure_of.hpp"
#include "idistill/comm/device_collectives.hpp"
#include "idistill/comm/mpi.hpp"
#include "ranks.hpp"

using namespace idistill;
using namespace idistill::comm;
using namespace idistill::test;

namespace {

// Stall timeouts of those that wait in vain. A rank that gets no core for 3/8 of one is taken for one that is silent:
// the longer one is for where it matters who that is.
constexpr double soon = 2.0, patient = 4.0;

/// The NUMBERth such call of the rank goes wrong for as long as the object lives.
struct Injected {
    explicit Injected(int rank, const std::string& fault) {
        ::setenv("FAKE_NCCL_FAULT", (std::to_string(rank) + ":" + fault).c_str(), 1);
    }
    ~Injected() { ::unsetenv("FAKE_NCCL_FAULT"); }
};

bool is_last() { return world().rank() == world().size() - 1; }

/// What an all-reduce fails with on this rank when the last rank has a fault, with a certain code there. Afterwards no
/// rank has anything left.
Failure all_reduce_fails(ExitCode code, const std::string& fault, double stall_timeout = soon,
                         bool before_arrival = false) {
    Failure failure;
    {
        const Connected connected(4, stall_timeout);
        const DeviceMemory<std::int64_t> values(payloads(0, 10));
        const Injected injected(world().size() - 1, fault);
        failure = failure_of(is_last() ? code : ExitCode::restart_me,
                             [&] { connected.device().all_reduce(values.span(), Reduction::sum); });
        if (is_last() && before_arrival) connected.ranks->barrier();  // the others have been there
        BOOST_TEST(communicators() == 0);
        world().barrier();
        // Afterwards the GPU is free, MPI goes on, and the next call says that there is nothing any more.
        BOOST_TEST(values.read().size() == 10U);
        failure_of(ExitCode::internal_error, [&] { connected.device().broadcast(values.span()); });
    }
    world().barrier();
    return failure;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(device_failures, *boost::unit_test::precondition(with_fake))

BOOST_AUTO_TEST_CASE(an_error_code_is_named_with_the_libraries_words) {
    const auto failure = all_reduce_fails(ExitCode::internal_error, "ncclAllReduce:2:code=3");
    BOOST_TEST_CONTEXT(Error(ExitCode::ok, failure).what()) {
        BOOST_TEST(failure.where.starts_with("all_reduce between GPUs #"));
        if (is_last()) {
            BOOST_TEST(failure.field == "ncclAllReduce");
            BOOST_TEST(failure.found ==
                       "NCCL 2.28.9 error 3 (internal error); NCCL's last words: injected failure of a call");
            BOOST_TEST(contains(failure.remedy, "NCCL_DEBUG=WARN"));
        } else {
            BOOST_TEST(contains(failure.found, "has arrived but is silent since then") !=
                       contains(failure.found, "all ranks have arrived, but their data does not"));
        }
    }
}

BOOST_AUTO_TEST_CASE(an_error_that_comes_later_is_seen_while_waiting) {
    const auto failure = all_reduce_fails(ExitCode::restart_me, "ncclAllReduce:1:async=6");
    if (is_last()) {
        BOOST_TEST(failure.field == "ncclCommGetAsyncError");
        BOOST_TEST(contains(failure.found, "error 6 (remote error); NCCL's last words: injected error after the call"));
    }
}

BOOST_AUTO_TEST_CASE(a_rank_whose_data_does_not_arrive) {
    const auto failure = all_reduce_fails(ExitCode::restart_me, "ncclAllReduce:1:lost", patient);
    BOOST_TEST(failure.expected == "every rank within 4 s");
    BOOST_TEST(contains(failure.found, "all ranks have arrived, but their data does not (the network?)"));
    BOOST_TEST(contains(failure.remedy, "--stall-timeout"));
}

BOOST_AUTO_TEST_CASE(errors_of_the_gpu_are_not_those_of_nccl) {
    const auto while_waiting = all_reduce_fails(ExitCode::internal_error, "cudaEventQuery:1:code=700");
    const auto before = all_reduce_fails(ExitCode::internal_error, "cudaStreamSynchronize:1:code=700", soon, true);
    if (!is_last()) return;
    BOOST_TEST(while_waiting.where.starts_with("GPU of this rank, since all_reduce between GPUs #"));
    BOOST_TEST(before.where.starts_with("GPU of this rank, since connection of the GPUs #"));
    BOOST_TEST(before.found == "CUDA error 700 (an illegal memory access was encountered)");
}

BOOST_AUTO_TEST_CASE(ranks_that_cannot_be_connected) {
    for (const auto* fault :
         {"ncclCommInitRankConfig:1:code=2", "ncclCommInitRankConfig:1:async=3", "ncclCommInitRankConfig:1:lost"}) {
        const Injected injected(world().size() - 1, fault);
        const bool is_at_fault = is_last() && !contains(fault, "lost");
        const auto ranks = make_mpi_communicator(soon);
        const auto failure =
            failure_of(is_at_fault ? ExitCode::internal_error : ExitCode::restart_me, [&] { connect_devices(*ranks); });
        BOOST_TEST(failure.where.starts_with("connection of the GPUs #"));
        BOOST_TEST(ranks->device() == nullptr);
        BOOST_TEST(communicators() == 0);
        world().barrier();
    }
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_come_is_named_by_mpi) {
    if (world().size() == 1) return;
    const Connected connected(4, patient);
    const DeviceMemory<std::int64_t> values(payloads(0, 10));
    const auto all_reduce = [&] { connected.device().all_reduce(values.span(), Reduction::sum); };
    if (is_last()) world().barrier();  // until the others have given up
    const auto failure = failure_of(ExitCode::restart_me, all_reduce);
    if (!is_last()) {
        BOOST_TEST(failure.found.starts_with("rank " + std::to_string(world().size() - 1) + " ("));
        BOOST_TEST(contains(failure.found, "has not arrived at all_reduce between GPUs #"));
        world().barrier();
    }
    BOOST_TEST(communicators() == 0);
    world().barrier();
}

BOOST_AUTO_TEST_SUITE_END()
