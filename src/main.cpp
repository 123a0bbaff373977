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
        return {
            ExitCode::too_large,
            {"memory", "", "what `idistill_mpi plan` counts, free on every node", "that an allocation fails: " + text,
             "Start fewer ranks on a node, or lower what `idistill_mpi plan` names."}};
    return {ExitCode::internal_error, {"unexpected failure", "", "", text, ""}};
}

/// What one rank makes of the command line: settings, or a text that was asked for, or an error.
struct Parsed {
    std::optional<idistill::config::Settings> settings;
    std::string text;
    std::optional<idistill::Error> error;
};

Parsed parse(int argc, char** argv) {
    Parsed parsed;
    try {
        parsed.settings =
            idistill::config::parse(std::vector<std::string>(argv + 1, argv + argc), parsed.text, version);
    } catch (const idistill::Error& error) {
        parsed.error = error;
    }
    return parsed;
}

/// Collective. All ranks must have found the same: a settings file may differ between nodes, or be there on some only.
/// The ranks that differ from rank 0 throw, or rank 0 alone where it is the one that failed.
void agree(idistill::comm::Communicator& comm, const Parsed& parsed) {
    const std::string mine = parsed.settings ? "settings " + idistill::config::to_json(*parsed.settings)
                             : parsed.error  ? std::string("error ") + parsed.error->what()
                                             : "text";
    const auto all = comm.all_gather(std::span(reinterpret_cast<const std::uint8_t*>(mine.data()), mine.size()));
    const auto found_by = [&all](std::size_t rank) { return std::string(all[rank].begin(), all[rank].end()); };
    for (std::size_t rank = 1; rank < all.size(); ++rank) {
        if (all[rank] == all[0]) continue;
        const bool failed = found_by(rank).starts_with("error");
        if (comm.rank() != (failed ? static_cast<int>(rank) : 0)) comm.barrier();  // until that rank ends the job
        if (parsed.error) throw idistill::Error(*parsed.error);
        throw idistill::Error(idistill::ExitCode::usage,
                              {"settings", fmt::format("of rank {}", rank), "those of rank 0: " + found_by(0),
                               found_by(rank), "Give every rank the same command line and the same --config file."});
    }
}

/// Everything between the start of MPI and its end: the exit code.
int work(int argc, char** argv) {
    const auto parsed = parse(argc, argv);
    const auto timeout =
        parsed.settings ? parsed.settings->stall_timeout_seconds : idistill::config::Settings().stall_timeout_seconds;
    const auto comm = idistill::comm::make_mpi_communicator(timeout);
    agree(*comm, parsed);
    if (parsed.settings) {
        at::set_num_threads(parsed.settings->threads);
        idistill::run(*parsed.settings, *comm, program);
    } else if (comm->is_root()) {
        if (parsed.error) std::fprintf(stderr, "idistill_mpi: %s\n", parsed.error->what());
        std::fputs(parsed.text.c_str(), stdout);
    }
    return parsed.error ? static_cast<int>(parsed.error->code()) : 0;
}

}  // namespace

int main(int argc, char** argv) {
    keep_freed_memory();
    std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the size limit is an error that has a cause to tell
    try {
        const idistill::comm::MpiProcess mpi(argc, argv);
        try {
            return work(argc, argv);
        } catch (const std::exception& error) {
            fail(classified(error));
        }
    } catch (const std::exception& error) {  // MPI itself did not start
        fail(classified(error));
    }
}
