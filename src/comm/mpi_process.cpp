#include <mpi.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "idistill/base/error.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/comm/pointer_file.hpp"
#include "mpi_check.hpp"

namespace idistill::comm {
namespace {

std::atomic<int> rank_in_world{-1};

}  // namespace

MpiProcess::MpiProcess(int& argc, char**& argv) : exceptions_(std::uncaught_exceptions()) {
    prefer_pointer_files();
    int provided = MPI_THREAD_SINGLE;
    check("MPI_Init_thread", MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided));
    check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
    int rank = -1;
    check("MPI_Comm_rank", MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    rank_in_world = rank;
    if (provided < MPI_THREAD_MULTIPLE) {
        throw Error(ExitCode::internal_error,
                    {"MPI_Init_thread", "thread level", "MPI_THREAD_MULTIPLE", "level " + std::to_string(provided),
                     "Use an MPI library built with full thread support"});
    }
}

// Finalising waits for all ranks: while an exception unwinds on one of them it would hang, and main calls abort()
// instead.
MpiProcess::~MpiProcess() {
    if (std::uncaught_exceptions() == exceptions_ && mpi_is_up() && MPI_Finalize() != MPI_SUCCESS) {
        std::fputs("MPI_Finalize failed after the work was done\n", stderr);
    }
}

void MpiProcess::end_job(const Error& error) noexcept {
    std::fflush(stdout);
    std::fprintf(stderr, "idistill_mpi: rank %d (%s): %s\n", world_rank(), host_name().c_str(), error.what());
    abort(static_cast<int>(error.code()));
}

void MpiProcess::abort(int exit_code) noexcept {
    std::fflush(nullptr);
    if (mpi_is_up()) MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
}

int MpiProcess::world_rank() noexcept { return rank_in_world; }

}  // namespace idistill::comm
