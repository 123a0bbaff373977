#include "nccl_collectives.hpp"

#include <fmt/format.h>

#include <chrono>
#include <future>
#include <span>
#include <thread>
#include <utility>

#include "backoff.hpp"
#include "idistill/base/error.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/mpi_handle.hpp"

namespace idistill::comm {
namespace {

constexpr nccl::Stream default_stream = nullptr;
constexpr unsigned event_without_time = 2;  // cudaEventDisableTiming
constexpr std::chrono::seconds abort_patience{5};

}  // namespace

NcclCollectives::NcclCollectives(MpiCommunicator& ranks, std::size_t piece)
    : ranks_(ranks), library_(nccl::find_library()), piece_(piece) {
    nccl::UniqueId id{};
    if (ranks_.is_root()) {
        const auto result = library_.get_unique_id(&id);
        if (result != nccl::success) fail("ncclGetUniqueId", result);
    }
    ranks_.broadcast(std::span(reinterpret_cast<std::uint8_t*>(id.bytes), sizeof id.bytes));
    arrive(Operation::connect_devices);
    check_cuda("cudaEventCreateWithFlags", library_.create_event(&event_, event_without_time));
    nccl::Config config;
    make("ncclCommInitRankConfig",
         [&] { return library_.init_rank(&handle_, ranks_.size(), id, ranks_.rank(), &config); });
}

void NcclCollectives::release() {
    arrive(Operation::release_devices);
    if (handle_ != nullptr) {
        make("ncclCommFinalize", [this] { return library_.finalize(handle_); });
        const BlockingCall call(ranks_, "ncclCommDestroy");
        library_.destroy(std::exchange(handle_, nullptr));
    }
    library_.destroy_event(event_);
}

void NcclCollectives::broadcast_raw(void* data, std::size_t count, ElementType type, int root) {
    arrive(Operation::device_broadcast);
    in_pieces(count, piece_, [&](std::size_t first, std::size_t elements) {
        void* const piece = static_cast<std::byte*>(data) + first * size_of(type);
        make("ncclBroadcast", [&] {
            return library_.broadcast(piece, piece, elements, nccl::data_type(type), root, handle_, default_stream);
        });
        finish();
    });
}

void NcclCollectives::all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) {
    arrive(Operation::device_all_reduce);
    in_pieces(count, piece_, [&](std::size_t first, std::size_t elements) {
        void* const piece = static_cast<std::byte*>(data) + first * size_of(type);
        make("ncclAllReduce", [&] {
            return library_.all_reduce(piece, piece, elements, nccl::data_type(type), nccl::operation(reduction),
                                       handle_, default_stream);
        });
        finish();
    });
}

// What the GPU still computes is this rank's own work, which nobody holds against it, and its errors are not NCCL's.
void NcclCollectives::arrive(Operation operation) {
    check_cuda("cudaStreamSynchronize", library_.synchronize(default_stream));
    try {
        ranks_.arrive(operation);
        ranks_.assemble();
    } catch (const Error& error) {
        stop(error);
    }
}

void NcclCollectives::make(const char* name, const Call& call) {
    const auto result = [&] {
        const BlockingCall blocking(ranks_, ranks_.last_collective() + ": " + name);
        return call();
    }();
    if (result != nccl::success && result != nccl::in_progress) fail(name, result);
    wait([this] { return is_taken_up(); });
}

void NcclCollectives::finish() {
    check_cuda("cudaEventRecord", library_.record_event(event_, default_stream));
    wait([this] { return is_taken_up() && is_finished(); });
}

void NcclCollectives::wait(const MpiCommunicator::Done& done) {
    try {
        ranks_.wait_until(done, transfer_yield_seconds, [this](const MpiCommunicator::Answer& answer) {
            const auto error = ranks_.stalled_error(ranks_.last_collective(), answer);
            auto failure = error.failure();
            failure.found += last_words();
            throw Error(error.code(), failure);
        });
    } catch (const Error& error) {
        stop(error);
    }
}

bool NcclCollectives::is_taken_up() {
    auto state = nccl::success;
    const auto result = library_.get_async_error(handle_, &state);
    if (result != nccl::success) fail("ncclCommGetAsyncError", result);
    if (state != nccl::success && state != nccl::in_progress) fail("ncclCommGetAsyncError", state);
    return state == nccl::success;
}

bool NcclCollectives::is_finished() {
    const auto state = library_.query_event(event_);
    if (state != nccl::cuda_not_ready) check_cuda("cudaEventQuery", state);
    return state == nccl::cuda_success;
}

void NcclCollectives::check_cuda(const char* name, nccl::CudaResult result) {
    if (result == nccl::cuda_success) return;
    stop({ExitCode::internal_error,
          {"GPU of this rank, since " + ranks_.last_collective(), name, "",
           fmt::format("CUDA error {} ({})", static_cast<int>(result), library_.cuda_error_text(result)),
           "Look at the GPU (nvidia-smi, dmesg); the same command continues the run"}});
}

void NcclCollectives::fail(const char* name, nccl::Result result) {
    stop({result == nccl::remote_error ? ExitCode::restart_me : ExitCode::internal_error,
          {ranks_.last_collective(), name, "",
           fmt::format("{} error {} ({}){}", library_.version(), static_cast<int>(result), library_.error_text(result),
                       last_words()),
           "NCCL_DEBUG=WARN lets NCCL say more; the same command continues the run"}});
}

std::string NcclCollectives::last_words() const {
    const char* const text = library_.last_error(handle_);
    return text == nullptr || *text == '\0' ? "" : fmt::format("; NCCL's last words: {}", text);
}

// Without the abort whatever frees device memory while the error unwinds would wait for a kernel that does not end.
// Where the abort does not come back itself, nothing can unwind: the job ends here.
void NcclCollectives::stop(const Error& error) {
    if (auto* const handle = std::exchange(handle_, nullptr)) {
        std::packaged_task<void()> task([abort = library_.abort, handle] { abort(handle); });
        const auto done = task.get_future();
        std::thread(std::move(task)).detach();
        if (done.wait_for(abort_patience) != std::future_status::ready) MpiProcess::end_job(error);
    }
    throw error;
}

}  // namespace idistill::comm
