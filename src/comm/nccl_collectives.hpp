#pragma once
// The collectives of MPI ranks over the memory of their GPUs.

#include <cstddef>
#include <functional>
#include <string>

#include "idistill/comm/communicator.hpp"
#include "mpi_communicator.hpp"
#include "nccl_library.hpp"

namespace idistill::comm {

/// Every collective: this rank's GPU finishes what it has, the ranks arrive and assemble by MPI, which names the one
/// that does not come; then NCCL's calls, that do not block, looked at together with NCCL's error and an event until
/// they are done. The looking is bounded as all waits of the ranks are. A call that does not come back ends the job, as
/// those of parallel HDF5 do.
class NcclCollectives final : public Collectives {
public:
    NcclCollectives(MpiCommunicator& ranks, std::size_t piece);
    /// Leaves to the end of the process what release() has not taken back.
    ~NcclCollectives() override = default;
    NcclCollectives(const NcclCollectives&) = delete;
    NcclCollectives& operator=(const NcclCollectives&) = delete;

    [[nodiscard]] std::string library() const { return library_.version(); }

    /// Collective: finalises and destroys, but for what a failure has aborted.
    void release();

protected:
    void broadcast_raw(void* data, std::size_t count, ElementType type, int root) override;
    void all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) override;

private:
    using Call = std::function<nccl::Result()>;

    void arrive(Operation operation);
    /// Makes the call and waits until NCCL has taken it up.
    void make(const char* name, const Call& call);
    /// Waits until the GPU has done what was made.
    void finish();
    void wait(const MpiCommunicator::Done& done);
    [[nodiscard]] bool is_taken_up();
    [[nodiscard]] bool is_finished();
    void check_cuda(const char* name, nccl::CudaResult result);
    [[noreturn]] void fail(const char* name, nccl::Result result);
    [[nodiscard]] std::string last_words() const;
    /// Ends what runs on the GPU, then throws. Once is enough: a second time it only throws.
    [[noreturn]] void stop(const Error& error);

    MpiCommunicator& ranks_;
    const nccl::Library library_;
    const std::size_t piece_;
    nccl::Handle handle_ = nullptr;
    nccl::Event event_ = nullptr;
};

}  // namespace idistill::comm
