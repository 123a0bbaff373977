#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/report/error.hpp"
#include "pipeline.hpp"

namespace {

const std::string version = IDISTILL_VERSION " (" IDISTILL_GIT_ID ")";
const std::string program = "idistill_mpi " + version;

/// Activations come and go by the megabyte: kept by the process, not handed back to the system and faulted in again.
void keep_freed_memory() {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, -1);
}

/// Ends the job from this rank alone, with the cause. What every rank finds wrong at once is said by rank 0: the others
/// leave it a moment to end the job.
[[noreturn]] void fail(idistill::ExitCode code, const char* what) {
    if (idistill::comm::MpiProcess::world_rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    std::fflush(stdout);
    std::fprintf(stderr, "idistill_mpi: rank %d (%s): %s\n", idistill::comm::MpiProcess::world_rank(),
                 idistill::comm::host_name().c_str(), what);
    idistill::comm::MpiProcess::abort(static_cast<int>(code));
}

}  // namespace

int main(int argc, char** argv) {
    keep_freed_memory();
    std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error that has a cause to tell
    const idistill::comm::MpiProcess mpi(argc, argv);
    const bool is_root = idistill::comm::MpiProcess::world_rank() == 0;
    std::optional<idistill::config::Settings> settings;
    try {
        std::string text;
        settings = idistill::config::parse(std::vector<std::string>(argv + 1, argv + argc), text, version);
        if (!settings) {
            if (is_root) std::fputs(text.c_str(), stdout);
            return 0;
        }
    } catch (const idistill::Error& error) {  // the same on every rank: said once
        if (is_root) std::fprintf(stderr, "idistill_mpi: %s\n", error.what());
        return static_cast<int>(error.code());
    }
    try {
        at::set_num_threads(settings->threads);
        const auto comm = idistill::comm::make_mpi_communicator(settings->stall_timeout_seconds);
        idistill::run(*settings, *comm, program);
        return 0;
    } catch (const idistill::Error& error) {
        fail(error.code(), error.what());
    } catch (const std::exception& error) {
        fail(idistill::ExitCode::internal_error, error.what());
    }
}
