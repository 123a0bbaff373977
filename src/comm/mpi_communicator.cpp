#include "mpi_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "backoff.hpp"
#include "idistill/comm/device_collectives.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/node.hpp"
#include "nccl_collectives.hpp"

namespace idistill::comm {
namespace {

constexpr int gather_tag = 1;

// Duplicating is bounded like every other collective, but nobody can say yet who is missing.
MPI_Comm duplicate_world(double stall_timeout) {
    if (!mpi_is_up())
        throw Error(ExitCode::internal_error, {"make_mpi_communicator", "", "a live MpiProcess", "none", ""});
    MPI_Comm comm = MPI_COMM_NULL;
    MPI_Request request = MPI_REQUEST_NULL;
    check("MPI_Comm_idup", MPI_Comm_idup(MPI_COMM_WORLD, &comm, &request));
    Backoff backoff(idle_yield_seconds);
    for (int done = 0;;) {
        check("MPI_Test", MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        if (done != 0) return comm;
        if (backoff.waited_seconds() > stall_timeout) {
            throw Error(ExitCode::restart_me,
                        {"start of the ranks", "", "every rank within " + seconds_text(stall_timeout),
                         "that some rank has not arrived", restart_remedy});
        }
        backoff.pause();
    }
}

int rank_in(MPI_Comm comm) {
    int rank = 0;
    check("MPI_Comm_rank", MPI_Comm_rank(comm, &rank));
    return rank;
}

int size_in(MPI_Comm comm) {
    int size = 0;
    check("MPI_Comm_size", MPI_Comm_size(comm, &size));
    return size;
}

}  // namespace

MpiCommunicator::MpiCommunicator(double stall_timeout_seconds, std::size_t piece)
    : stall_timeout_(stall_timeout_seconds),
      beat_seconds_(std::clamp(stall_timeout_seconds / 8, 0.05, 5.0)),
      piece_(piece),
      collectives_(duplicate_world(stall_timeout_)),
      mail_(duplicate_world(stall_timeout_)),
      rank_(rank_in(collectives_.get())),
      size_(size_in(collectives_.get())),
      service_(rank_ == 0 ? std::make_unique<Service>(mail_.get(), size_, beat_seconds_, stall_timeout_) : nullptr),
      outbox_(mail_.get()),
      hosts_(static_cast<std::size_t>(size_), "host unknown"),
      exceptions_(std::uncaught_exceptions()) {
    pulse_ = std::make_unique<Pulse>(
        mail_.get(), beat_seconds_, stall_timeout_, waits_,
        [this](const std::string& what, const Answer& answer) { end_stalled_call(what, answer); });
    tell(Note::hello, 0);
    wait_until([this] { return receive(mail_.get(), 0, tag::hello).has_value(); }, idle_yield_seconds,
               [this](const Answer& answer) { throw_stalled(answer); });
    hosts_ = all_gather(host_name());
}

// A destructor cannot throw, and leaving a rank behind would let MPI_Finalize hang: a stall here ends the job.
MpiCommunicator::~MpiCommunicator() {
    if (std::uncaught_exceptions() > exceptions_ || !mpi_is_up()) return;
    try {
        if (device_) device_->release();
        barrier();
        pulse_.reset();
        tell(Note::goodbye, 0);
        wait_until([this] { return outbox_.idle() && (!service_ || service_->is_done()); }, idle_yield_seconds,
                   [this](const Answer& answer) { throw_stalled(answer); });
    } catch (const Error& error) {
        MpiProcess::end_job(error);
    } catch (const std::exception& error) {
        MpiProcess::end_job({ExitCode::internal_error, {"end of the ranks", "", "", error.what(), ""}});
    }
}

// --- collectives ----------------------------------------------------------------------------------------------------

void MpiCommunicator::barrier() {
    arrive(Operation::barrier);
    MPI_Request request = MPI_REQUEST_NULL;
    check("MPI_Ibarrier", MPI_Ibarrier(handle(), &request));
    wait({&request, 1}, idle_yield_seconds);
}

void MpiCommunicator::broadcast_raw(void* data, std::size_t count, ElementType type, int root) {
    arrive(Operation::broadcast);
    assemble_for(count * size_of(type));
    move_broadcast(data, count, type, root);
}

void MpiCommunicator::all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) {
    arrive(Operation::all_reduce);
    assemble_for(count * size_of(type));
    in_pieces(count, piece_, [&](std::size_t first, std::size_t elements) {
        MPI_Request request = MPI_REQUEST_NULL;
        check("MPI_Iallreduce",
              MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(data) + first * size_of(type),
                             static_cast<int>(elements), mpi_type(type), mpi_operation(reduction), handle(), &request));
        wait({&request, 1}, transfer_yield_seconds);
    });
}

std::vector<std::vector<std::byte>> MpiCommunicator::gather_raw(const void* mine, std::size_t bytes, int root) {
    arrive(Operation::gather);
    const auto sizes = all_sizes(bytes);
    std::vector<std::vector<std::byte>> parts(rank_ == root ? sizes.size() : 0);
    std::vector<std::byte*> to(parts.size());
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
        parts[rank].resize(sizes[rank]);
        to[rank] = parts[rank].data();
    }
    move_gather(mine, sizes, to, root);
    return parts;
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_gather_raw(const void* mine, std::size_t bytes) {
    arrive(Operation::all_gather);
    const auto sizes = all_sizes(bytes);
    std::vector<std::byte> flat(std::accumulate(sizes.begin(), sizes.end(), std::size_t{0}));
    std::vector<std::byte*> to(sizes.size());
    for (std::size_t rank = 0, first = 0; rank < to.size(); first += sizes[rank++]) to[rank] = flat.data() + first;
    move_gather(mine, sizes, to, 0);
    move_broadcast(flat.data(), flat.size(), ElementType::u8, 0);
    std::vector<std::vector<std::byte>> parts(sizes.size());
    for (std::size_t rank = 0; rank < parts.size(); ++rank) parts[rank].assign(to[rank], to[rank] + sizes[rank]);
    return parts;
}

std::vector<std::uint64_t> MpiCommunicator::all_sizes(std::size_t bytes) {
    const std::uint64_t mine = bytes;
    std::vector<std::uint64_t> sizes(static_cast<std::size_t>(size_));
    MPI_Request request = MPI_REQUEST_NULL;
    check("MPI_Iallgather", MPI_Iallgather(&mine, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, handle(), &request));
    wait({&request, 1}, idle_yield_seconds);
    return sizes;
}

// One message a rank and piece: displacements of the gathering collectives are ints, those of pointers are not.
void MpiCommunicator::move_gather(const void* mine, std::span<const std::uint64_t> sizes,
                                  std::span<std::byte* const> to, int root) {
    std::vector<MPI_Request> requests;
    const auto post_pieces = [&](std::size_t bytes, const auto& post) {
        in_pieces(bytes, piece_, [&](std::size_t first, std::size_t count) {
            requests.push_back(MPI_REQUEST_NULL);
            post(first, static_cast<int>(count), &requests.back());
        });
    };
    const auto me = static_cast<std::size_t>(rank_);
    if (rank_ != root) {
        post_pieces(sizes[me], [&](std::size_t first, int count, MPI_Request* request) {
            check("MPI_Isend", MPI_Isend(static_cast<const std::byte*>(mine) + first, count, MPI_BYTE, root, gather_tag,
                                         handle(), request));
        });
    } else {
        if (sizes[me] > 0) std::memcpy(to[me], mine, sizes[me]);
        for (std::size_t from = 0; from < sizes.size(); ++from) {
            if (from == me) continue;
            post_pieces(sizes[from], [&](std::size_t first, int count, MPI_Request* request) {
                check("MPI_Irecv", MPI_Irecv(to[from] + first, count, MPI_BYTE, static_cast<int>(from), gather_tag,
                                             handle(), request));
            });
        }
    }
    wait(requests, transfer_yield_seconds);
}

void MpiCommunicator::move_broadcast(void* data, std::size_t count, ElementType type, int root) {
    in_pieces(count, piece_, [&](std::size_t first, std::size_t elements) {
        MPI_Request request = MPI_REQUEST_NULL;
        check("MPI_Ibcast", MPI_Ibcast(static_cast<std::byte*>(data) + first * size_of(type),
                                       static_cast<int>(elements), mpi_type(type), root, handle(), &request));
        wait({&request, 1}, transfer_yield_seconds);
    });
}

Collectives* MpiCommunicator::device() noexcept { return device_.get(); }

std::string connect_devices(Communicator& communicator, std::size_t piece) {
    return as_mpi(communicator).connect(piece);
}

std::string MpiCommunicator::connect(std::size_t piece) {
    device_ = std::make_unique<NcclCollectives>(*this, piece);
    return device_->library();
}

std::string seconds_text(double seconds) { return fmt::format("{:g} s", seconds); }

MpiCommunicator& as_mpi(Communicator& communicator) {
    if (auto* mpi = dynamic_cast<MpiCommunicator*>(&communicator)) return *mpi;
    throw Error(ExitCode::internal_error, {"communicator", "", "ranks of MPI", "ranks that are threads", ""});
}

std::unique_ptr<Communicator> make_mpi_communicator(double stall_timeout_seconds, std::size_t piece) {
    return std::make_unique<MpiCommunicator>(stall_timeout_seconds, piece);
}

}  // namespace idistill::comm
