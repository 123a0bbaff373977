#pragma once
// Small messages between the ranks and rank 0's helper thread, on a communicator of their own. All eager, none blocks.

#include <mpi.h>

#include <array>
#include <cstdint>
#include <list>
#include <optional>

namespace idistill::comm {

/// What a rank tells the helper. `number` is that of the collective, or of the stage for the three about units.
enum class Note : std::int64_t {
    hello,        ///< first message; answered, so that the connection stands before anything is timed
    arrived,      ///< value = Operation: the rank entered collective `number`
    waiting,      ///< the rank waits, and is alive
    working,      ///< the rank computes
    who_missing,  ///< asks who keeps collective `number` from completing; answered
    claim,        ///< asks for a unit of stage `number`; answered, by `value` = unit or nothing_left
    finished,     ///< value = unit of stage `number`
    left_stage,   ///< no more claims or reports of stage `number` from this rank
    goodbye,      ///< last message
};

/// A rank as the helper last saw it.
struct Sighting {
    std::int64_t rank;
    std::int64_t number;
    std::int64_t operation;
};

/// Every message has this form; `missing` is filled in answers to who_missing only (`value` of them in all, the first
/// few listed; or somebody_works).
struct Letter {
    Note note;
    std::int64_t number = 0;
    std::int64_t value = 0;
    std::array<Sighting, 4> missing{};
};

/// Answer to who_missing: there is reason to wait on.
inline constexpr std::int64_t somebody_works = -1;

/// To the helper travels tag::request; back travel the others.
namespace tag {
inline constexpr int request = 1;
inline constexpr int hello = 2;
inline constexpr int missing = 3;
inline constexpr int unit = 4;
}  // namespace tag

/// Sends without waiting, and keeps every letter until it is gone. For one thread.
class Outbox {
public:
    explicit Outbox(MPI_Comm comm) : comm_(comm) {}
    ~Outbox();
    Outbox(const Outbox&) = delete;
    Outbox& operator=(const Outbox&) = delete;

    void post(int to, int tag, const Letter& letter);

    /// Forgets what is gone; true when nothing is under way any more.
    bool idle();

private:
    struct Sent {
        MPI_Request request;
        Letter letter;
    };

    MPI_Comm comm_;
    std::list<Sent> sent_;
};

struct Received {
    int from;
    Letter letter;
};

/// Asks rank 0's helper who keeps collective `number` from completing; nothing when it does not answer.
std::optional<Received> ask_who_is_missing(Outbox& outbox, MPI_Comm comm, std::int64_t number);

/// The next letter with this tag, if one is there. `from` may be MPI_ANY_SOURCE.
std::optional<Received> receive(MPI_Comm comm, int from, int tag);

}  // namespace idistill::comm
