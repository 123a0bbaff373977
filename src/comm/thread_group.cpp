#include "idistill/comm/thread_group.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/claims.hpp"
#include "operation.hpp"
#include "work_ledger.hpp"

namespace idistill::comm {
namespace {

using Parts = std::vector<std::vector<std::byte>>;

/// Thrown in ranks that are woken because another one failed.
struct RankStopped : std::exception {
    [[nodiscard]] const char* what() const noexcept override { return "another rank failed"; }
};

/// What the ranks must agree on in a collective.
struct Call {
    Operation operation;
    std::size_t count = 0;  ///< elements; not of the gathering ones, where it may differ
    ElementType type = ElementType::u8;
    Reduction reduction = Reduction::sum;
    int root = 0;
    friend bool operator==(const Call&, const Call&) = default;
};

template <class T>
void reduce(const Parts& parts, Reduction reduction, std::span<std::byte> out) {
    auto* result = reinterpret_cast<T*>(out.data());
    for (std::size_t rank = 0; rank < parts.size(); ++rank) {
        const auto* values = reinterpret_cast<const T*>(parts[rank].data());
        for (std::size_t i = 0; i < out.size() / sizeof(T); ++i) {
            if (rank == 0) result[i] = values[i];
            if (rank > 0 && reduction == Reduction::sum) result[i] = static_cast<T>(result[i] + values[i]);
            if (reduction == Reduction::max) result[i] = std::max(result[i], values[i]);
            if (reduction == Reduction::min) result[i] = std::min(result[i], values[i]);
        }
    }
}

void reduce(const Parts& parts, ElementType type, Reduction reduction, std::span<std::byte> out) {
    switch (type) {
        case ElementType::u8:
            return reduce<std::uint8_t>(parts, reduction, out);
        case ElementType::i32:
            return reduce<std::int32_t>(parts, reduction, out);
        case ElementType::i64:
            return reduce<std::int64_t>(parts, reduction, out);
        case ElementType::u32:
            return reduce<std::uint32_t>(parts, reduction, out);
        case ElementType::u64:
            return reduce<std::uint64_t>(parts, reduction, out);
        case ElementType::f32:
        case ElementType::f64:
        case ElementType::end:
            break;  // the public interface refuses them
    }
    throw Error(ExitCode::internal_error, {"all_reduce", "type", "an integer", "a floating-point number", ""});
}

class ThreadGroup {
public:
    ThreadGroup(int ranks, double stall_timeout_seconds)
        : ledger(ranks),
          calls_(static_cast<std::size_t>(ranks)),
          parts_(calls_.size()),
          stall_timeout_(stall_timeout_seconds) {}

    /// Every rank's bytes, when all of them have come with the same call.
    std::shared_ptr<const Parts> exchange(int rank, const Call& call, std::span<const std::byte> mine) {
        std::unique_lock lock(mutex_);
        if (failed_) throw RankStopped();
        const std::int64_t round = round_;
        calls_[static_cast<std::size_t>(rank)] = call;
        parts_[static_cast<std::size_t>(rank)].assign(mine.begin(), mine.end());
        if (std::count(calls_.begin(), calls_.end(), std::nullopt) == 0) {
            require_agreement();
            done_ = std::make_shared<const Parts>(std::exchange(parts_, Parts(calls_.size())));
            std::fill(calls_.begin(), calls_.end(), std::nullopt);
            ++round_;
            changed_.notify_all();
            return done_;
        }
        wait(
            lock, [&] { return round_ != round; },
            [&] {
                std::string missing;
                for (std::size_t other = 0; other < calls_.size(); ++other)
                    if (!calls_[other]) missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(other);
                return stall(name_of(call.operation) + (" #" + std::to_string(round + 1)), missing);
            });
        return done_;  // the next round is not done before this rank has come to it
    }

    /// Waits until the ledger says so; `ready` is asked again after every change().
    template <class Ready>
    void wait_for_ledger(const char* what, Ready ready) {
        std::unique_lock lock(mutex_);
        wait(lock, ready, [&] { return stall(what, "a rank"); });
    }

    void change() {
        const std::scoped_lock lock(mutex_);
        changed_.notify_all();
    }

    void fail() {
        const std::scoped_lock lock(mutex_);
        failed_ = true;
        changed_.notify_all();
    }

    WorkLedger ledger;

private:
    void require_agreement() const {
        const auto shown = [](const Call& call) {
            return name_of(call.operation) + (" of " + std::to_string(call.count));
        };
        for (std::size_t rank = 1; rank < calls_.size(); ++rank)
            if (calls_[rank] != calls_[0])
                throw Error(ExitCode::internal_error, {"collective", "rank " + std::to_string(rank), shown(*calls_[0]),
                                                       shown(*calls_[rank]), ""});
    }

    [[nodiscard]] Error stall(const std::string& where, const std::string& missing) const {
        return {ExitCode::restart_me,
                {where, "", "every rank within " + std::to_string(stall_timeout_) + " s", missing + " has not arrived",
                 restart_remedy}};
    }

    template <class Ready, class Stall>
    void wait(std::unique_lock<std::mutex>& lock, Ready ready, Stall stall) {
        const auto timeout = std::chrono::duration<double>(stall_timeout_);
        const bool woken = changed_.wait_for(lock, timeout, [&] { return failed_ || ready(); });
        if (ready()) return;
        if (woken) throw RankStopped();
        failed_ = true;  // this rank's call ends with its stack: nobody may complete it any more
        changed_.notify_all();
        throw stall();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::optional<Call>> calls_;  ///< of the ranks that have come to this round
    Parts parts_;
    std::shared_ptr<const Parts> done_;  ///< of the round before
    std::int64_t round_ = 0;
    bool failed_ = false;
    const double stall_timeout_;
};

class ThreadCommunicator final : public Communicator {
public:
    ThreadCommunicator(ThreadGroup& group, int rank, int size) : group_(group), rank_(rank), size_(size) {}

    [[nodiscard]] int rank() const noexcept override { return rank_; }
    [[nodiscard]] int size() const noexcept override { return size_; }
    void barrier() override { exchange({.operation = Operation::barrier}, {}); }
    std::unique_ptr<WorkClaims> make_claims(std::span<const std::int64_t> order,
                                            std::function<void(std::int64_t)> on_finished) override;

    void throw_deferred() {
        if (deferred_) std::rethrow_exception(std::exchange(deferred_, nullptr));
    }
    void defer(std::exception_ptr failure) noexcept { deferred_ = std::move(failure); }
    std::int64_t begin_stage() noexcept { return ++stages_; }
    [[nodiscard]] ThreadGroup& group() noexcept { return group_; }

protected:
    void broadcast_raw(void* data, std::size_t count, ElementType type, int root) override {
        const std::span bytes(static_cast<std::byte*>(data), count * size_of(type));
        const auto parts = exchange({.operation = Operation::broadcast, .count = count, .type = type, .root = root},
                                    rank_ == root ? bytes : std::span<std::byte>());
        if (rank_ != root) std::ranges::copy((*parts)[static_cast<std::size_t>(root)], bytes.begin());
    }
    void all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) override {
        const std::span bytes(static_cast<std::byte*>(data), count * size_of(type));
        const Call call{.operation = Operation::all_reduce, .count = count, .type = type, .reduction = reduction};
        reduce(*exchange(call, bytes), type, reduction, bytes);
    }
    Parts gather_raw(const void* mine, std::size_t bytes, int root) override {
        const auto parts = exchange({.operation = Operation::gather, .root = root},
                                    std::span(static_cast<const std::byte*>(mine), bytes));
        return rank_ == root ? *parts : Parts();
    }
    Parts all_gather_raw(const void* mine, std::size_t bytes) override {
        return *exchange({.operation = Operation::all_gather}, std::span(static_cast<const std::byte*>(mine), bytes));
    }

private:
    std::shared_ptr<const Parts> exchange(const Call& call, std::span<const std::byte> mine) {
        throw_deferred();
        return group_.exchange(rank_, call, mine);
    }

    ThreadGroup& group_;
    const int rank_;
    const int size_;
    std::int64_t stages_ = 0;
    std::exception_ptr deferred_;
};

/// As the claims of MPI ranks, with the ledger at hand.
class ThreadClaims final : public WorkClaims {
public:
    ThreadClaims(ThreadCommunicator& communicator, std::span<const std::int64_t> order,
                 std::function<void(std::int64_t)> on_finished)
        : communicator_(communicator),
          group_(communicator.group()),
          stage_(communicator.begin_stage()),
          exceptions_(std::uncaught_exceptions()) {
        if (!communicator_.is_root()) return;
        group_.ledger.open(stage_, order, std::move(on_finished));
        group_.change();
    }
    ThreadClaims(const ThreadClaims&) = delete;
    ThreadClaims& operator=(const ThreadClaims&) = delete;

    ~ThreadClaims() override {
        if (std::uncaught_exceptions() == exceptions_) {
            try {
                leave();
            } catch (...) {
                communicator_.defer(std::current_exception());
            }
        }
        if (communicator_.is_root()) group_.ledger.close(stage_);
    }

    std::optional<std::int64_t> next() override {
        wait_until_open();
        const std::int64_t unit = group_.ledger.claim(stage_);
        return unit == WorkLedger::nothing_left ? std::nullopt : std::optional(unit);
    }

    void finished(std::int64_t unit) override { group_.ledger.finished(stage_, unit); }

private:
    void wait_until_open() {
        group_.wait_for_ledger("claim of a work unit", [this] { return group_.ledger.was_opened(stage_); });
    }
    void leave() {
        wait_until_open();
        group_.ledger.leave(stage_, communicator_.rank());
        group_.change();
        if (!communicator_.is_root()) return;
        group_.wait_for_ledger("end of the work units", [this] { return group_.ledger.still_at_work(stage_).empty(); });
    }

    ThreadCommunicator& communicator_;
    ThreadGroup& group_;
    const std::int64_t stage_;
    const int exceptions_;
};

std::unique_ptr<WorkClaims> ThreadCommunicator::make_claims(std::span<const std::int64_t> order,
                                                            std::function<void(std::int64_t)> on_finished) {
    throw_deferred();
    return std::make_unique<ThreadClaims>(*this, order, std::move(on_finished));
}

}  // namespace

void run_ranks_as_threads(int ranks, const std::function<void(Communicator&)>& body, double stall_timeout_seconds) {
    ThreadGroup group(ranks, stall_timeout_seconds);
    std::vector<std::exception_ptr> failures(static_cast<std::size_t>(ranks));
    const auto run = [&](int rank) {
        try {
            ThreadCommunicator communicator(group, rank, ranks);
            body(communicator);
        } catch (const RankStopped&) {  // the cause is another rank's
        } catch (...) {
            failures[static_cast<std::size_t>(rank)] = std::current_exception();
            group.fail();
        }
    };
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

}  // namespace idistill::comm
