#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "idistill/base/error.hpp"
#include "idistill/base/log.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/options/table.hpp"
#include "pipeline.hpp"
#include "program_options.hpp"
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
[[noreturn]] void fail(const idistill::Error& error, bool by_all_ranks = false) {
    using idistill::comm::MpiProcess;
    if (MpiProcess::world_rank() > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
    if (by_all_ranks) MpiProcess::end_job(error.what(), error.code());
    MpiProcess::end_job(error);
}

/// Memory that the system refuses is a run that does not fit, not a defect.
idistill::Error classified(const std::exception& error) {
    using idistill::Error;
    using idistill::ExitCode;
    if (const auto* known = dynamic_cast<const Error*>(&error)) return *known;
    const std::string text = error.what();
    if (idistill::model::is_out_of_memory(error))
        return {ExitCode::too_large,
                {"memory of the GPU", "", "what `idistill_mpi plan` counts, free on every GPU", text,
                 "Lower --batch-tokens, or what else `idistill_mpi plan` names; leave the GPU to this run alone."}};
    if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr || text.find("allocate memory") != std::string::npos)
        return {
            ExitCode::too_large,
            {"memory", "", "what `idistill_mpi plan` counts, free on every node", "that an allocation fails: " + text,
             "Start fewer ranks on a node, or lower what `idistill_mpi plan` names."}};
    return {ExitCode::internal_error, {"unexpected failure", "", "", text, ""}};
}

/// What one rank makes of the command line: settings, or a text that was asked for, or an error.
struct Parsed {
    std::optional<idistill::options::Values> values;
    std::string text;
    std::optional<idistill::Error> error;
};

Parsed parse(int argc, char** argv) {
    Parsed parsed;
    try {
        parsed.values = idistill::options::parse(idistill::program_options(),
                                                 std::vector<std::string>(argv + 1, argv + argc), parsed.text, version);
    } catch (const idistill::Error& error) {
        parsed.error = error;
    }
    return parsed;
}

/// What two ranks' settings differ in: {keys, values of the first, values of the second}.
std::array<std::string, 3> differences(const std::string& first, const std::string& second) {
    const auto a = nlohmann::json::parse(first), b = nlohmann::json::parse(second);
    std::array<std::string, 3> texts;
    for (const auto& [key, value] : a.items()) {
        const auto theirs = b.value(key, nlohmann::json());
        if (value == theirs) continue;
        const std::string comma = texts[0].empty() ? "" : ", ";
        texts[0] += comma + key;
        texts[1] += comma + value.dump();
        texts[2] += comma + theirs.dump();
    }
    return texts;
}

/// Collective. Ranks must have found the same: a settings file may be there on some nodes only, or differ between them.
/// The first rank that failed throws; where none has, rank 0 names the first that has other settings than its own.
void agree(idistill::comm::Communicator& comm, const Parsed& parsed) {
    const std::string mine = parsed.values  ? idistill::options::to_json(idistill::program_options(), *parsed.values)
                             : parsed.error ? std::string("error: ") + parsed.error->what()
                                            : parsed.text;
    const auto found = comm.all_gather(mine);
    const auto other = std::find_if(found.begin(), found.end(), [&](const auto& text) { return text != found[0]; });
    if (other == found.end()) return;
    const auto failed =
        std::find_if(found.begin(), found.end(), [](const auto& t) { return t.starts_with("error: "); });
    const auto speaker = failed == found.end() ? 0 : failed - found.begin();
    if (comm.rank() != speaker) comm.barrier();  // until that rank ends the job
    if (parsed.error) throw idistill::Error(*parsed.error);
    const auto [keys, expected, had] = differences(found[0], *other);
    throw idistill::Error(
        idistill::ExitCode::usage,
        {"settings", fmt::format("{} of rank {}", keys, other - found.begin()), expected + " as on rank 0", had,
         "Give every rank the same command line and the same --config file."});
}

/// Everything between the start of MPI and its end: the exit code.
int work(int argc, char** argv) {
    const auto parsed = parse(argc, argv);
    const auto run =
        parsed.values ? parsed.values->of<idistill::options::RunSettings>() : idistill::options::RunSettings();
    const auto comm = idistill::comm::make_mpi_communicator(run.stall_timeout_seconds);
    idistill::name_rank(comm->rank());
    agree(*comm, parsed);
    if (parsed.error) fail(*parsed.error, true);
    if (parsed.values) {
        at::set_num_threads(run.threads);
        idistill::run(idistill::program_options(), *parsed.values, *comm, program);
    } else if (comm->is_root()) {
        std::fputs(parsed.text.c_str(), stdout);
    }
    return 0;
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
