#pragma once
// MPI behind the communicator: process guard, world communicator, node-shared memory. No mpi.h here.

#include <cstddef>
#include <memory>
#include <span>

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

    /// Ends the whole job from this rank alone. Never returns.
    [[noreturn]] static void abort(int exit_code) noexcept;

    /// Rank in the world, usable from the catch in main also when nothing else is left; -1 before MPI is up.
    [[nodiscard]] static int world_rank() noexcept;

private:
    int exceptions_;
};

/// A duplicate of the world communicator, owned. Collectives are non-blocking inside and bounded by the stall timeout.
std::unique_ptr<Communicator> make_mpi_communicator(double stall_timeout_seconds);

/// Memory that the ranks of one node share (MPI shared window). The node's first rank fills it, then all may only read.
class NodeSharedMemory {
public:
    /// Collective. Throws Error(too_large) naming what /dev/shm has when it cannot be allocated.
    NodeSharedMemory(Communicator& world, std::size_t bytes);
    ~NodeSharedMemory();
    NodeSharedMemory(const NodeSharedMemory&) = delete;
    NodeSharedMemory& operator=(const NodeSharedMemory&) = delete;

    /// True on the one rank of the node that fills the memory.
    [[nodiscard]] bool is_writer() const noexcept;
    /// 64-byte aligned start, `bytes` long.
    [[nodiscard]] std::span<std::byte> bytes() const noexcept;
    /// Collective: waits until the writer is done, then write-protects the memory on every rank of the node.
    void publish();

private:
    struct Window;
    std::unique_ptr<Window> window_;
};

}  // namespace idistill::comm
