// How an MPI rank arrives at collectives, waits in them, and finds out who does not come.

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "mpi_communicator.hpp"

namespace idistill::comm {
namespace {

constexpr std::size_t small_transfer_bytes = 64U << 10U;

}  // namespace

std::atomic<bool> MpiCommunicator::waits_{false};

void MpiCommunicator::tell(Note note, std::int64_t number, std::int64_t value) {
    outbox_.post(0, tag::request, {note, number, value});
}

void MpiCommunicator::throw_failures() {
    if (deferred_) std::rethrow_exception(std::exchange(deferred_, nullptr));
    if (service_) service_->rethrow_failure();
}

void MpiCommunicator::arrive(Operation operation) {
    throw_failures();
    operation_ = operation;
    tell(Note::arrived, ++number_, static_cast<std::int64_t>(operation));
}

// Ranks that wait for others sleep, ranks that move data must not: before more than a little of it they assemble.
void MpiCommunicator::assemble_for(std::size_t bytes) {
    if (bytes > small_transfer_bytes) assemble();
}

void MpiCommunicator::assemble() {
    if (size_ == 1) return;
    MPI_Request request = MPI_REQUEST_NULL;
    check("MPI_Ibarrier", MPI_Ibarrier(handle(), &request));
    wait({&request, 1}, idle_yield_seconds);
}

void MpiCommunicator::wait(std::span<MPI_Request> requests, double yield_seconds) {
    const auto done = [requests] {
        int all = 0;
        check("MPI_Testall",
              MPI_Testall(static_cast<int>(requests.size()), requests.data(), &all, MPI_STATUSES_IGNORE));
        return all != 0;
    };
    wait_until(done, yield_seconds, [this](const Answer& answer) { throw_stalled(answer); });
}

void MpiCommunicator::wait_until(const Done& done, double yield_seconds, const Stalled& stalled) {
    struct Waiting {
        std::atomic<bool>& flag;
        explicit Waiting(std::atomic<bool>& waits) : flag(waits) { flag = true; }
        ~Waiting() { flag = false; }
    } const waiting(waits_);
    Backoff backoff(yield_seconds);
    double next_beat = beat_seconds_;
    double ask_at = stall_timeout_;
    while (!done()) {
        const double waited = backoff.waited_seconds();
        if (waited > next_beat) {
            next_beat += beat_seconds_;
            throw_failures();
            tell(Note::waiting, number_);
        }
        if (waited > ask_at) {
            const auto answer = ask_who_is_missing(outbox_, mail_.get(), number_);
            if (!answer || answer->letter.value != somebody_works) stalled(answer);
            ask_at = waited + beat_seconds_;
        }
        backoff.pause();
    }
}

std::string MpiCommunicator::rank_name(std::int64_t rank) const {
    return "rank " + std::to_string(rank) + " (" + hosts_[static_cast<std::size_t>(rank)] + ")";
}

std::string MpiCommunicator::last_collective() const {
    return std::string(name_of(operation_)) + " #" + std::to_string(number_);
}

Error MpiCommunicator::stalled_error(const std::string& place, const Answer& answer) const {
    std::string found;
    if (!answer) {
        found = rank_name(0) + " has not arrived and does not answer";
    } else if (answer->letter.value == 0) {
        found = "that all ranks have arrived, but their data does not (the network?)";
    } else {
        const auto count = static_cast<std::size_t>(answer->letter.value);
        const auto& missing = answer->letter.missing;
        for (std::size_t i = 0; i < std::min(count, missing.size()); ++i) {
            const auto& [rank, number, operation] = missing[i];
            const std::string seen =
                std::string(name_of(static_cast<Operation>(operation))) + " #" + std::to_string(number);
            found += (i > 0 ? ", " : "") + rank_name(rank) +
                     (number < number_ ? " has not arrived at " + last_collective() + " for " +
                                             seconds_text(stall_timeout_) + " (last seen at " + seen + ")"
                                       : " has arrived but is silent since then");
        }
        if (count > missing.size()) found += " and " + std::to_string(count - missing.size()) + " more";
    }
    return {ExitCode::restart_me,
            {place, "", "every rank within " + seconds_text(stall_timeout_), found, restart_remedy}};
}

void MpiCommunicator::throw_stalled(const Answer& answer) { throw stalled_error(last_collective(), answer); }

// A call that blocks cannot be left by an exception: the job ends here.
void MpiCommunicator::end_stalled_call(const std::string& what, const Answer& answer) const {
    MpiProcess::end_job(stalled_error(what, answer));
}

}  // namespace idistill::comm
