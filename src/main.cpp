#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/report/error.hpp"
#include "pipeline.hpp"
#include "source_version.hpp"

namespace {

const std::string version = idistill::source_version;
const std::string program = "idistill_mpi " + version;

/// Activations come and go by the megabyte: kept by the process, not handed back to the system and faulted in again.
void keep_freed_memory() {
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, -1);
}

/// Ends the job from this rank alone, with the cause. What every rank finds wrong at once is said by rank 0: the others
/// leave it a moment to end the job.
[[noreturn]] void fail(const idistill::Error& error) {
    if (idistill::comm::MpiProcess::world_rank() != 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    std::fflush(stdout);
    std::fprintf(stderr, "idistill_mpi: rank %d (%s): %s\n", idistill::comm::MpiProcess::world_rank(),
                 idistill::comm::host_name().c_str(), error.what());
    idistill::comm::MpiProcess::abort(static_cast<int>(error.code()));
}

/// Memory that the system refuses is a run that does not fit, not a defect.
idistill::Error classified(const std::exception& error) {
    using idistill::Error;
    using idistill::ExitCode;
    if (const auto* known = dynamic_cast<const Error*>(&error)) return *known;
    const std::string text = error.what();
    if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr || text.find("allocate memory") != std::string::npos)
        return {ExitCode::too_large,
                {"memory", "", "what `idistill_mpi plan` counts, free on every node", "that an allocation fails: " + text,
                 "Start fewer ranks on a node, or lower what `idistill_mpi plan` names."}};
    return {ExitCode::internal_error, {"unexpected failure", "", "", text, ""}};
}

/// The settings, or nothing when the command line only asked for text. They are the same on every rank: said once.
std::optional<idistill::config::Settings> parse(int argc, char** argv, bool is_root, int& exit_code) {
    std::string text;
    try {
        auto settings = idistill::config::parse(std::vector<std::string>(argv + 1, argv + argc), text, version);
        if (!settings && is_root) std::fputs(text.c_str(), stdout);
        return settings;
    } catch (const idistill::Error& error) {
        if (is_root) std::fprintf(stderr, "idistill_mpi: %s\n", error.what());
        exit_code = static_cast<int>(error.code());
        return std::nullopt;
    }
}

}  // namespace

int main(int argc, char** argv) {
    keep_freed_memory();
    std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error that has a cause to tell
    try {
        const idistill::comm::MpiProcess mpi(argc, argv);
        int exit_code = 0;
        const auto settings = parse(argc, argv, idistill::comm::MpiProcess::world_rank() == 0, exit_code);
        if (!settings) return exit_code;
        at::set_num_threads(settings->threads);
        try {
            const auto comm = idistill::comm::make_mpi_communicator(settings->stall_timeout_seconds);
            idistill::run(*settings, *comm, program);
            return 0;
        } catch (const std::exception& error) {
            fail(classified(error));
        }
    } catch (const std::exception& error) {  // MPI itself did not start
        fail(classified(error));
    }
}
