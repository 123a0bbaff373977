#include "mail.hpp"

#include <utility>

#include "backoff.hpp"
#include "mpi_check.hpp"

namespace idistill::comm {
namespace {

constexpr int letter_words = sizeof(Letter) / sizeof(std::int64_t);
constexpr double helper_patience_seconds = 5.0;  // rank 0's helper answers within milliseconds while it lives
static_assert(sizeof(Letter) == letter_words * sizeof(std::int64_t));

}  // namespace

// Letters under way belong to MPI: when a failing run leaves some behind, they stay until the process ends.
Outbox::~Outbox() {
    if (!sent_.empty()) new std::list<Sent>(std::move(sent_));
}

void Outbox::post(int to, int tag, const Letter& letter) {
    idle();
    sent_.push_back({MPI_REQUEST_NULL, letter});
    Sent& sent = sent_.back();
    check("MPI_Isend", MPI_Isend(&sent.letter, letter_words, MPI_INT64_T, to, tag, comm_, &sent.request));
}

bool Outbox::idle() {
    sent_.remove_if([](Sent& sent) {
        int done = 0;
        check("MPI_Test", MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE));
        return done != 0;
    });
    return sent_.empty();
}

std::optional<Received> receive(MPI_Comm comm, int from, int tag) {
    int found = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    check("MPI_Improbe", MPI_Improbe(from, tag, comm, &found, &message, &status));
    if (found == 0) return std::nullopt;
    Received received{status.MPI_SOURCE, {}};
    check("MPI_Mrecv", MPI_Mrecv(&received.letter, letter_words, MPI_INT64_T, &message, MPI_STATUS_IGNORE));
    return received;
}

std::optional<Received> ask_who_is_missing(Outbox& outbox, MPI_Comm comm, std::int64_t number) {
    outbox.post(0, tag::request, {Note::who_missing, number});
    std::optional<Received> answer;
    Backoff backoff(idle_yield_seconds);
    while (!answer && backoff.waited_seconds() < helper_patience_seconds) {
        answer = receive(comm, 0, tag::missing);
        if (!answer) backoff.pause();
    }
    return answer;
}

}  // namespace idistill::comm
