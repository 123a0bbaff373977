#pragma once
// The communicator of MPI ranks.

#include <mpi.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "backoff.hpp"
#include "idistill/base/error.hpp"
#include "idistill/comm/claims.hpp"
#include "idistill/comm/communicator.hpp"
#include "mail.hpp"
#include "mpi_check.hpp"
#include "operation.hpp"
#include "pulse.hpp"
#include "service.hpp"

namespace idistill::comm {

class NcclCollectives;

/// Every collective: a letter 'arrived' to the helper, then non-blocking calls, looked at until they are done or the
/// stall timeout has passed; then the helper is asked who is missing, and while some rank computes the wait goes on.
class MpiCommunicator final : public Communicator {
public:
    MpiCommunicator(double stall_timeout_seconds, std::size_t piece);
    ~MpiCommunicator() override;
    MpiCommunicator(const MpiCommunicator&) = delete;
    MpiCommunicator& operator=(const MpiCommunicator&) = delete;

    [[nodiscard]] int rank() const noexcept override { return rank_; }
    [[nodiscard]] int size() const noexcept override { return size_; }
    [[nodiscard]] Collectives* device() noexcept override;
    void barrier() override;
    std::unique_ptr<WorkClaims> make_claims(std::span<const std::int64_t> order,
                                            std::function<void(std::int64_t)> on_finished) override;

    [[nodiscard]] MPI_Comm handle() const noexcept { return collectives_.get(); }

    // For calls of libraries that block.
    [[nodiscard]] Pulse& pulse() noexcept { return *pulse_; }
    [[nodiscard]] std::int64_t collectives_so_far() const noexcept { return number_; }

    // For the collectives between GPUs.
    using Done = std::function<bool()>;
    using Answer = std::optional<Received>;  ///< of the helper, who is missing; nothing when it is silent
    using Stalled = std::function<void(const Answer&)>;
    std::string connect(std::size_t piece);
    void arrive(Operation operation);
    /// Every rank has arrived.
    void assemble();
    /// Calls `stalled`, which throws, when the stall timeout has passed and no rank computes.
    void wait_until(const Done& done, double yield_seconds, const Stalled& stalled);
    [[nodiscard]] std::string last_collective() const;
    [[nodiscard]] Error stalled_error(const std::string& place, const Answer& answer) const;

    // For the claims of this rank.
    [[nodiscard]] Service* service() noexcept { return service_.get(); }
    std::int64_t begin_stage() noexcept { return ++stages_; }
    void tell(Note note, std::int64_t number, std::int64_t value = 0);
    std::int64_t await_unit(std::int64_t stage);
    void await_leaving(std::int64_t stage);

    /// Keeps a failure of a destructor for the next collective to throw.
    void defer(std::exception_ptr failure) noexcept { deferred_ = std::move(failure); }

protected:
    void broadcast_raw(void* data, std::size_t count, ElementType type, int root) override;
    void all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) override;
    std::vector<std::vector<std::byte>> gather_raw(const void* mine, std::size_t bytes, int root) override;
    std::vector<std::vector<std::byte>> all_gather_raw(const void* mine, std::size_t bytes) override;

private:
    void assemble_for(std::size_t bytes);
    void throw_failures();
    void move_broadcast(void* data, std::size_t count, ElementType type, int root);
    /// `to[rank]` is where the root puts the `sizes[rank]` bytes of that rank; not looked at elsewhere.
    void move_gather(const void* mine, std::span<const std::uint64_t> sizes, std::span<std::byte* const> to, int root);
    std::vector<std::uint64_t> all_sizes(std::size_t bytes);

    void wait(std::span<MPI_Request> requests, double yield_seconds);
    [[noreturn]] void throw_stalled(const Answer& answer);
    [[noreturn]] void end_stalled_call(const std::string& what, const Answer& answer) const;
    [[nodiscard]] std::string rank_name(std::int64_t rank) const;

    const double stall_timeout_;
    const double beat_seconds_;
    const std::size_t piece_;
    OwnedComm collectives_;
    OwnedComm mail_;
    int rank_ = 0;
    int size_ = 1;
    std::unique_ptr<Service> service_;  ///< on rank 0
    Outbox outbox_;
    static std::atomic<bool> waits_;  ///< the process waits for other ranks, through whichever communicator
    std::unique_ptr<Pulse> pulse_;
    std::vector<std::string> hosts_;
    std::unique_ptr<NcclCollectives> device_;
    std::int64_t number_ = 0;
    Operation operation_ = Operation::start;
    std::int64_t stages_ = 0;
    std::exception_ptr deferred_;
    int exceptions_;
};

/// "600 s", "0.5 s".
std::string seconds_text(double seconds);

/// The MPI communicator behind the handle; throws Error(internal_error) for ranks that are threads.
MpiCommunicator& as_mpi(Communicator& communicator);

}  // namespace idistill::comm
