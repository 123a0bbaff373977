#include <fmt/format.h>
#include <mpi.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "idistill/comm/mpi.hpp"
#include "idistill/comm/mpi_handle.hpp"
#include "idistill/comm/node.hpp"
#include "mpi_communicator.hpp"

namespace idistill::comm {
namespace {

constexpr const char* shared_memory_folder = "/dev/shm";  // where MPI libraries keep shared windows

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

std::size_t whole_pages(std::size_t bytes) { return (bytes + page_size() - 1) / page_size() * page_size(); }

std::string gigabytes(std::size_t bytes) { return fmt::format("{:.3f} GB", static_cast<double>(bytes) * 1e-9); }

Error does_not_fit(std::size_t bytes, const std::string& found, const std::string& remedy) {
    return {ExitCode::too_large,
            {"memory shared by the ranks of " + host_name(), shared_memory_folder, gigabytes(bytes), found, remedy}};
}

void demand_space(std::size_t bytes) {
    struct statvfs space {};
    if (statvfs(shared_memory_folder, &space) != 0) return;  // elsewhere then; the allocation itself will tell
    const std::size_t free = static_cast<std::size_t>(space.f_bavail) * space.f_frsize;
    if (free < bytes) {
        throw does_not_fit(
            bytes, gigabytes(free) + " free",
            "Make it larger (mount -o remount,size=...), remove left-over files there, or use one rank a node "
            "with more threads");
    }
}

}  // namespace

struct NodeSharedMemory::Window {
    explicit Window(MpiCommunicator& world) : world(world) {}

    void map_alone();
    void allocate_shared();

    MpiCommunicator& world;
    int rank = 0;  ///< on the node
    int size = 1;
    std::byte* start = nullptr;  ///< of a page
    std::size_t bytes = 0;
    MPI_Comm node = MPI_COMM_NULL;
    MPI_Win window = MPI_WIN_NULL;
    int exceptions = std::uncaught_exceptions();
};

void NodeSharedMemory::Window::map_alone() {
    void* memory = mmap(nullptr, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        throw does_not_fit(bytes, std::strerror(errno), "Use a node with more memory, or a smaller model or dtype");
    }
    start = static_cast<std::byte*>(memory);
}

// MPI keeps its own state in the first page of the shared segment; ours are the whole pages behind it, so that
// write-protecting them does not reach it. The offset is the same in every rank's mapping.
void NodeSharedMemory::Window::allocate_shared() {
    const std::size_t mine = rank == 0 ? whole_pages(bytes) + page_size() : 0;
    void* base = nullptr;
    const BlockingCall blocking(world, "MPI_Win_allocate_shared");
    const int code = MPI_Win_allocate_shared(static_cast<MPI_Aint>(mine), 1, MPI_INFO_NULL, node, &base, &window);
    int error_class = MPI_SUCCESS;
    check("MPI_Error_class", MPI_Error_class(code, &error_class));
    if (error_class == MPI_ERR_NO_MEM || error_class == MPI_ERR_NO_SPACE) {
        throw does_not_fit(bytes, "that MPI cannot allocate it", "Use one rank a node with more threads");
    }
    check("MPI_Win_allocate_shared", code);
    check("MPI_Win_set_errhandler", MPI_Win_set_errhandler(window, MPI_ERRORS_RETURN));
    MPI_Aint size = 0;
    int unit = 0;
    check("MPI_Win_shared_query", MPI_Win_shared_query(window, 0, &size, &unit, &base));
    check("MPI_Win_lock_all", MPI_Win_lock_all(MPI_MODE_NOCHECK, window));
    start = reinterpret_cast<std::byte*>(whole_pages(reinterpret_cast<std::uintptr_t>(base)));
}

// The calls that MPI offers only in blocking form follow a barrier that is bounded.
NodeSharedMemory::NodeSharedMemory(Communicator& world, std::size_t bytes)
    : window_(std::make_unique<Window>(as_mpi(world))) {
    Window& window = *window_;
    window.bytes = bytes;
    world.barrier();
    {
        const BlockingCall blocking(world, "MPI_Comm_split_type");
        check("MPI_Comm_split_type", MPI_Comm_split_type(window.world.handle(), MPI_COMM_TYPE_SHARED, world.rank(),
                                                         MPI_INFO_NULL, &window.node));
    }
    check("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(window.node, MPI_ERRORS_RETURN));
    check("MPI_Comm_rank", MPI_Comm_rank(window.node, &window.rank));
    check("MPI_Comm_size", MPI_Comm_size(window.node, &window.size));
    const bool shared = window.size > 1 && bytes > 0;
    if (shared) demand_space(whole_pages(bytes) + page_size());
    world.barrier();
    if (shared) {
        window.allocate_shared();
    } else if (bytes > 0) {
        window.map_alone();
    }
}

NodeSharedMemory::~NodeSharedMemory() {
    Window& window = *window_;
    if (std::uncaught_exceptions() > window.exceptions || !mpi_is_up()) return;
    if (window.window == MPI_WIN_NULL && window.start != nullptr) munmap(window.start, whole_pages(window.bytes));
    try {
        window.world.barrier();
        const BlockingCall blocking(window.world, "MPI_Win_free");
        if (window.window != MPI_WIN_NULL) {
            check("MPI_Win_unlock_all", MPI_Win_unlock_all(window.window));
            check("MPI_Win_free", MPI_Win_free(&window.window));
        }
        check("MPI_Comm_free", MPI_Comm_free(&window.node));
    } catch (...) {
        window.world.defer(std::current_exception());
    }
}

bool NodeSharedMemory::is_writer() const noexcept { return window_->rank == 0; }

std::span<std::byte> NodeSharedMemory::bytes() const noexcept { return {window_->start, window_->bytes}; }

void NodeSharedMemory::publish() {
    Window& window = *window_;
    if (window.window != MPI_WIN_NULL) check("MPI_Win_sync", MPI_Win_sync(window.window));
    window.world.barrier();
    if (window.window != MPI_WIN_NULL) check("MPI_Win_sync", MPI_Win_sync(window.window));
    if (window.start != nullptr && mprotect(window.start, whole_pages(window.bytes), PROT_READ) != 0) {
        throw Error(ExitCode::internal_error, {"mprotect", "", "success", std::strerror(errno), ""});
    }
}

}  // namespace idistill::comm
