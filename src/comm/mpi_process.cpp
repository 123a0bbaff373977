#include <fcntl.h>
#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <thread>

#include "idistill/base/error.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/comm/pointer_file.hpp"
#include "mpi_check.hpp"

namespace idistill::comm {
namespace {

std::atomic<int> rank_in_world{-1};

constexpr const char* abort_delay = "opal_abort_delay";  // of Open MPI: seconds that MPI_Abort waits in this process

/// mpirun has its own say about a job that ends early, in eight lines, as soon as MPI_Abort is called. With the delay
/// this process can speak after it.
void ask_for_last_word() {
    if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
        ::setenv((std::string("OMPI_MCA_") + abort_delay).c_str(), "1", 0);
}

/// Whether MPI_Abort will wait as it was asked to.
bool has_last_word() noexcept {
    int provided = 0, index = 0, count = 0, seconds = 0;
    if (!mpi_is_up() || MPI_T_init_thread(MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) return false;
    MPI_T_cvar_handle handle = nullptr;
    if (MPI_T_cvar_get_index(abort_delay, &index) != MPI_SUCCESS ||
        MPI_T_cvar_handle_alloc(index, nullptr, &handle, &count) != MPI_SUCCESS)
        return false;
    return count == 1 && MPI_T_cvar_read(handle, &seconds) == MPI_SUCCESS && seconds > 0;
}

/// No other rank has to be ended.
bool is_alone() noexcept {
    int size = 0;
    return mpi_is_up() && MPI_Comm_size(MPI_COMM_WORLD, &size) == MPI_SUCCESS && size == 1;
}

void abort_all(int exit_code) noexcept {
    if (mpi_is_up()) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

/// Nothing that this process writes to standard error appears any more, but for what goes to the descriptor that this
/// gives; -1 where that cannot be had.
int silence_standard_error() noexcept {
    const int kept = ::dup(STDERR_FILENO);
    const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (kept >= 0 && nowhere >= 0 && ::dup2(nowhere, STDERR_FILENO) >= 0) return kept;
    return -1;
}

void write_all(int descriptor, const std::string& text) noexcept {
    for (std::size_t done = 0; done < text.size();) {
        const auto written = ::write(descriptor, text.data() + done, text.size() - done);
        if (written <= 0) return;
        done += static_cast<std::size_t>(written);
    }
}

}  // namespace

MpiProcess::MpiProcess(int& argc, char**& argv) : exceptions_(std::uncaught_exceptions()) {
    prefer_pointer_files();
    ask_for_last_word();
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
    end_job(fmt::format("rank {} ({}): {}", world_rank(), host_name(), error.what()), error.code());
}

void MpiProcess::end_job(const std::string& cause, ExitCode code) noexcept {
    std::fflush(nullptr);
    const auto line = "idistill_mpi: " + cause + "\n";
    const bool last = has_last_word();
    if (!last) write_all(STDERR_FILENO, line);
    const int kept = silence_standard_error();
    std::thread speaker;
    if (last) {
        try {
            speaker = std::thread([kept, line] {
                std::this_thread::sleep_for(std::chrono::milliseconds(400));
                write_all(kept >= 0 ? kept : STDERR_FILENO, line);
            });
        } catch (const std::exception&) {  // no thread to be had
            write_all(kept >= 0 ? kept : STDERR_FILENO, line);
        }
    }
    if (last || !is_alone()) abort_all(static_cast<int>(code));
    if (speaker.joinable()) speaker.join();
    std::_Exit(static_cast<int>(code));
}

void MpiProcess::abort(int exit_code) noexcept {
    std::fflush(nullptr);
    abort_all(exit_code);
    std::_Exit(exit_code);
}

int MpiProcess::world_rank() noexcept { return rank_in_world; }

}  // namespace idistill::comm
