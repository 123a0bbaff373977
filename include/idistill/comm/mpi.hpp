#pragma once
// MPI behind the communicator: process guard, world communicator, node-shared memory. No mpi.h here.

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "idistill/base/error.hpp"
#include "idistill/comm/communicator.hpp"

namespace idistill::comm {

/// Process guard: MPI_Init_thread with MPI_THREAD_MULTIPLE demanded, MPI_ERRORS_RETURN set at once. The destructor
/// finalises, but never while an exception unwinds. One per process.
class MpiProcess {
public:
    MpiProcess(int& argc, char**& argv);
    ~MpiProcess();
    MpiProcess(const MpiProcess&) = delete;
    MpiProcess& operator=(const MpiProcess&) = delete;

    /// Says on standard error which rank failed, where and why, and ends the whole job from this rank alone. The cause
    /// comes after what mpirun says, where this rank is left the time.
    [[noreturn]] static void end_job(const Error& error) noexcept;
    /// The same of a cause that no rank is named for.
    [[noreturn]] static void end_job(const std::string& cause, ExitCode code) noexcept;

    /// Ends the whole job from this rank alone. Never returns.
    [[noreturn]] static void abort(int exit_code) noexcept;

    /// Rank in the world, usable from the catch in main also when nothing else is left; -1 before MPI is up.
    [[nodiscard]] static int world_rank() noexcept;

private:
    int exceptions_;
};

/// Elements that one MPI call moves at most (its own limit is 2^31 - 1); also bounds what one wait waits for.
inline constexpr std::size_t largest_piece = std::size_t{1} << 26U;

/// Collective. A duplicate of the world communicator, owned. Collectives are non-blocking inside and bounded by the
/// stall timeout; more than `piece` elements travel in pieces. Its destructor is collective, except while an exception
/// unwinds, and ends the job with ExitCode::restart_me when a rank does not come.
std::unique_ptr<Communicator> make_mpi_communicator(double stall_timeout_seconds, std::size_t piece = largest_piece);

/// Memory that the ranks of one node share (MPI shared window). The node's first rank fills it, then all may only read.
class NodeSharedMemory {
public:
    /// Collective, `bytes` the same on every rank. Throws Error(too_large) naming what /dev/shm has when it
    /// cannot be allocated. `world` must outlive the memory.
    NodeSharedMemory(Communicator& world, std::size_t bytes);
    /// Collective, except while an exception unwinds (the memory then goes with the process).
    ~NodeSharedMemory();
    NodeSharedMemory(const NodeSharedMemory&) = delete;
    NodeSharedMemory& operator=(const NodeSharedMemory&) = delete;

    /// True on the one rank of the node that fills the memory.
    [[nodiscard]] bool is_writer() const noexcept;
    /// Starts at a page, hence 64-byte aligned; `bytes` long.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept;
    /// Collective: waits until the writer is done, then write-protects the memory on every rank of the node.
    void publish();

private:
    struct Window;
    std::unique_ptr<Window> window_;
};

}  // namespace idistill::comm
