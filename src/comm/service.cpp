#include "service.hpp"

#include <algorithm>
#include <iterator>

#include "mpi_check.hpp"

namespace idistill::comm {

Service::Service(MPI_Comm comm, int ranks, double beat_seconds, double stall_timeout)
    : comm_(comm),
      beat_seconds_(beat_seconds),
      stall_timeout_(stall_timeout),
      ledger_(ranks),
      outbox_(comm),
      seen_(static_cast<std::size_t>(ranks)) {
    thread_ = std::thread([this] { run(); });
}

Service::~Service() {
    stop_ = true;
    thread_.join();
}

void Service::rethrow_failure() {
    const std::scoped_lock lock(failure_mutex_);
    if (failure_) std::rethrow_exception(failure_);
}

void Service::run() noexcept {
    try {
        serve();
    } catch (...) {
        const std::scoped_lock lock(failure_mutex_);
        failure_ = std::current_exception();
    }
}

void Service::serve() {
    while (!stop_) {
        while (const auto received = receive(comm_, MPI_ANY_SOURCE, tag::request)) handle(*received);
        answer_claims();
        const bool all_sent = outbox_.idle();
        if (all_sent && goodbyes_ == std::ssize(seen_)) {
            done_ = true;
            return;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

void Service::handle(const Received& received) {
    const auto& [from, letter] = received;
    Seen& seen = seen_[static_cast<std::size_t>(from)];
    switch (letter.note) {
        case Note::hello:
            outbox_.post(from, tag::hello, {Note::hello});
            break;
        case Note::arrived:
            seen.number = letter.number;
            seen.operation = letter.value;
            break;
        case Note::waiting:
            seen.waiting = Clock::now();
            break;
        case Note::working:
            worked_ = Clock::now();
            break;
        case Note::who_missing:
            outbox_.post(from, tag::missing, missing_at(letter.number));
            break;
        case Note::claim:
            claims_.push_back({from, letter.number});
            break;
        case Note::finished:
            ledger_.finished(letter.number, letter.value);
            break;
        case Note::left_stage:
            ledger_.leave(letter.number, from);
            break;
        case Note::goodbye:
            ++goodbyes_;
            break;
    }
}

// A fast rank may claim from a stage that rank 0 has not come to yet: it is answered later.
void Service::answer_claims() {
    std::erase_if(claims_, [this](const Claim& claim) {
        if (!ledger_.was_opened(claim.stage)) return false;
        outbox_.post(claim.rank, tag::unit, {Note::claim, claim.stage, ledger_.claim(claim.stage)});
        return true;
    });
}

double Service::seconds_since(Clock::time_point when) {
    return std::chrono::duration<double>(Clock::now() - when).count();
}

// Ranks that are alive and wait elsewhere (for units, in a destructor) are victims like the one that asks. When all
// have arrived, one of them stopped on the way through: it is among those that no longer say that they wait.
Letter Service::missing_at(std::int64_t number) const {
    if (worked_ && seconds_since(*worked_) < stall_timeout_) return {Note::who_missing, number, somebody_works};
    const auto is_waiting = [&](const Seen& seen) { return seconds_since(seen.waiting) < 3 * beat_seconds_; };
    std::vector<Sighting> late;
    std::vector<Sighting> silent;
    for (std::size_t rank = 0; rank < seen_.size(); ++rank) {
        const Seen& seen = seen_[rank];
        const Sighting sighting{static_cast<std::int64_t>(rank), seen.number, seen.operation};
        if (!is_waiting(seen)) {
            (seen.number < number ? late : silent).push_back(sighting);
        }
    }
    const auto& missing = late.empty() ? silent : late;
    Letter letter{Note::who_missing, number, static_cast<std::int64_t>(missing.size())};
    std::copy_n(missing.begin(), std::min(missing.size(), letter.missing.size()), letter.missing.begin());
    return letter;
}

}  // namespace idistill::comm
