// NCCL and what idistill uses of CUDA's runtime, between the processes of one node and without a GPU: put before a
// program by LD_PRELOAD, of which the program knows nothing. Device memory is memory that the host must not touch; a
// thread is the default stream; the ranks exchange pieces of shared memory. Misuse (a call while another is in
// progress) is an error as in NCCL. By the environment:
//   FAKE_NCCL_FAULT=RANK:CALL:NUMBER:KIND[,...]   the NUMBERth such call of the rank goes wrong:
//       code=N   returns N                          async=N  begins, and is in error N later
//       lost     begins, and never goes on          blocks   does not come back
//   FAKE_NCCL_MOVES=0   calls are noted, nothing moves
// fake_nccl_calls() has the calls so far, fake_nccl_communicators() how many there are.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <sstream>
#include <string>

#include "fake_cuda.hpp"

using fake::Fault, fake::inside, fake::nap, fake::note, fake::stream, fake::variable;

namespace {

constexpr int success = 0, invalid_argument = 4, invalid_usage = 5, in_progress = 7;  // of ncclResult_t
constexpr int polls_in_progress = 3;  // so often a call that began is seen in progress
constexpr std::size_t slot_bytes = 1U << 16U;
constexpr int most_ranks = 8;

struct Shared {  // in memory that the ranks share; zero at first
    std::atomic<int> arrived, round;
    char slots[most_ranks][slot_bytes];
};

struct Communicator {
    int rank, ranks;
    Shared* shared;
    std::string name;
    std::atomic<int> state{success};
    std::atomic<int> polls{0};
    int later = success;       // the error that comes after some looks
    bool connects = false;     // or releases: in progress until it is done
    std::int64_t awaited = 0;  // the work on the stream before which the call is in progress
    std::atomic<bool> aborted{false};
};

std::atomic<int> communicators{0};
thread_local std::string last_words;

void block_if(const Fault& fault) {
    while (fault.kind == "blocks") nap();
}

/// Waits for all ranks; false when this one is aborted.
bool meet(Communicator& comm) {
    const int round = comm.shared->round;
    if (comm.shared->arrived.fetch_add(1) + 1 == comm.ranks) {
        comm.shared->arrived = 0;
        ++comm.shared->round;
    }
    while (comm.shared->round == round) {
        if (comm.aborted) return false;
        nap();
    }
    return !comm.aborted;
}

template <class T>
void reduce(Communicator& comm, int operation, char* to, std::size_t bytes) {
    auto* values = reinterpret_cast<T*>(to);
    for (int rank = 0; rank < comm.ranks; ++rank) {
        const auto* theirs = reinterpret_cast<const T*>(comm.shared->slots[rank]);
        for (std::size_t i = 0; i < bytes / sizeof(T); ++i) {
            const T mine = values[i];
            values[i] = rank == 0        ? theirs[i]
                        : operation == 0 ? static_cast<T>(mine + theirs[i])
                        : operation == 2 ? std::max(mine, theirs[i])
                                         : std::min(mine, theirs[i]);
        }
    }
}

struct Type {
    std::size_t bytes;
    void (*reduce)(Communicator&, int, char*, std::size_t);
};

/// By ncclDataType_t: 16-bit floats have no sums here.
const Type* type_of(int type) {
    static constexpr Type types[] = {{1, reduce<std::int8_t>},
                                     {1, reduce<std::uint8_t>},
                                     {4, reduce<std::int32_t>},
                                     {4, reduce<std::uint32_t>},
                                     {8, reduce<std::int64_t>},
                                     {8, reduce<std::uint64_t>},
                                     {2, nullptr},
                                     {4, reduce<float>},
                                     {8, reduce<double>}};
    return type >= 0 && type < 9 ? &types[type] : nullptr;
}

/// In pieces of a slot; `root` below 0: every rank sends.
void exchange(Communicator& comm, char* data, std::size_t bytes, int root, const Type& type, int operation) {
    for (std::size_t first = 0; first < bytes; first += slot_bytes) {
        const auto size = std::min(slot_bytes, bytes - first);
        if (root < 0 || root == comm.rank) std::memcpy(comm.shared->slots[comm.rank], data + first, size);
        if (!meet(comm)) return;
        if (root < 0) type.reduce(comm, operation, data + first, size);
        if (root >= 0) std::memcpy(data + first, comm.shared->slots[root], size);
        if (!meet(comm)) return;
    }
}

int refuse(int code, const char* words) {
    last_words = words;
    return code;
}

/// A call that begins `work` on the stream, and is in progress until that is taken up, or done.
int begin(Communicator* comm, const Fault& fault, bool until_done, const std::function<void()>& work) {
    block_if(fault);
    if (comm == nullptr) return refuse(invalid_argument, "no communicator");
    if (comm->state != success) return refuse(invalid_usage, "a call while another is in progress, or after an error");
    if (fault.kind == "code") return refuse(fault.value, "injected failure of a call");
    comm->connects = until_done;
    comm->later = fault.kind == "async" ? fault.value : success;
    comm->polls = 0;
    comm->state = in_progress;
    const auto never = [comm] {
        while (!comm->aborted) nap();
    };
    const auto number = fault.kind.empty() ? stream().add(work) : stream().add(never);
    comm->awaited = until_done && fault.kind != "async" ? number : 0;
    return in_progress;
}

int begin_exchange(const Fault& fault, const void* from, void* to, std::size_t count, int type, int root, int operation,
                   Communicator* comm) {
    const Type* kind = type_of(type);
    if (kind == nullptr || (root < 0 && kind->reduce == nullptr) || from != to || count == 0 ||
        (comm != nullptr && root >= comm->ranks))
        return refuse(invalid_argument, "arguments that are not served");
    return begin(comm, fault, false, [=] {
        if (variable("FAKE_NCCL_MOVES") != "0")
            exchange(*comm, inside(to), count * kind->bytes, root, *kind, operation);
    });
}

std::string shown(const void* address, std::size_t count, int type) {
    std::ostringstream text;
    text << ' ' << address << ' ' << count << ' ' << type;
    return text.str();
}

}  // namespace

extern "C" {

struct ncclUniqueId {
    char internal[128];
};
struct ncclConfig_t {  // its oldest part
    std::size_t size;
    unsigned magic, version;
    int blocking;
};

const char* fake_nccl_calls() {
    static std::string& copy = *new std::string;
    copy = fake::noted();
    return copy.c_str();
}

int fake_nccl_communicators() { return communicators; }

int ncclGetVersion(int* version) {
    *version = 22809;
    return success;
}

int ncclGetUniqueId(ncclUniqueId* id) {
    const auto fault = note("ncclGetUniqueId");
    static std::atomic<int> made{0};
    if (fault.kind == "code") return refuse(fault.value, "injected failure of a call");
    std::snprintf(id->internal, sizeof id->internal, "/fake_nccl_%d_%d", static_cast<int>(::getpid()), ++made);
    return success;
}

int ncclCommInitRankConfig(Communicator** made, int ranks, ncclUniqueId id, int rank, const ncclConfig_t* config) {
    const auto fault = note("ncclCommInitRankConfig");
    if (config->size < 20 || config->magic != 0xcafebeefU || config->version < 21400 || config->blocking != 0)
        return refuse(invalid_argument, "a configuration that is none");
    if (ranks > most_ranks) return refuse(invalid_argument, "more ranks than the test has room for");
    const int file = ::shm_open(id.internal, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ::ftruncate(file, sizeof(Shared)) != 0) return refuse(2, "no shared memory");
    void* const shared = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    auto* const comm = new Communicator{rank, ranks, static_cast<Shared*>(shared), id.internal};
    ++communicators;
    *made = comm;
    return begin(comm, fault, true, [comm] {
        if (meet(*comm) && comm->rank == 0) ::shm_unlink(comm->name.c_str());
    });
}

int ncclCommGetAsyncError(Communicator* comm, int* error) {
    if (comm == nullptr) return refuse(invalid_argument, "no communicator");
    // An error that comes later comes in place of the connection, or while a collective is under way.
    const bool in_place = comm->state == in_progress && comm->connects;
    if (comm->state == in_progress && ++comm->polls > polls_in_progress && stream().has_done(comm->awaited))
        comm->state = in_place ? comm->later : success;
    else if (comm->state == success && comm->later != success && ++comm->polls > 2 * polls_in_progress)
        comm->state = comm->later;
    if (comm->state == comm->later && comm->later != success) last_words = "injected error after the call";
    *error = comm->state;
    return success;
}

int ncclAllReduce(const void* from, void* to, std::size_t count, int type, int operation, Communicator* comm, void*) {
    const auto fault = note("ncclAllReduce", shown(to, count, type));
    return begin_exchange(fault, from, to, count, type, -1, operation, comm);
}

int ncclBroadcast(const void* from, void* to, std::size_t count, int type, int root, Communicator* comm, void*) {
    const auto fault = note("ncclBroadcast", shown(to, count, type));
    return begin_exchange(fault, from, to, count, type, root, 0, comm);
}

int ncclCommFinalize(Communicator* comm) {
    const auto fault = note("ncclCommFinalize");
    return begin(comm, fault, true, [comm] { meet(*comm); });
}

int ncclCommDestroy(Communicator* comm) {
    block_if(note("ncclCommDestroy"));
    stream().finish();
    ::munmap(comm->shared, sizeof(Shared));
    delete comm;
    --communicators;
    return success;
}

int ncclCommAbort(Communicator* comm) {
    block_if(note("ncclCommAbort"));
    comm->aborted = true;
    ::shm_unlink(comm->name.c_str());
    stream().finish();
    --communicators;
    return success;
}

const char* ncclGetErrorString(int error) {
    constexpr const char* names[] = {"no error",       "unhandled cuda error", "unhandled system error",
                                     "internal error", "invalid argument",     "invalid usage",
                                     "remote error",   "in progress"};
    return error >= 0 && error < 8 ? names[error] : "unknown";
}

const char* ncclGetLastError(Communicator*) { return last_words.c_str(); }

}  // extern "C"
