#include "idistill/comm/thread_group.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
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

/// One rank's part in a collective; lives on that rank's stack while it waits.
struct Call {
    Operation operation;
    const void* in = nullptr;
    void* out = nullptr;
    Parts* parts = nullptr;
    std::size_t count = 0;  ///< elements, bytes in the gathering ones
    ElementType type = ElementType::u8;
    Reduction reduction = Reduction::sum;
    int root = 0;
};

bool fit(const Call& a, const Call& b) {
    const bool gathers = a.operation == Operation::gather || a.operation == Operation::all_gather;
    return a.operation == b.operation && a.type == b.type && a.reduction == b.reduction && a.root == b.root &&
           (gathers || a.count == b.count);
}

template <class T>
void reduce(const std::vector<Call*>& calls, Reduction reduction) {
    const std::size_t count = calls[0]->count;
    std::vector<T> result(count);
    if (count == 0) return;
    std::memcpy(result.data(), calls[0]->out, count * sizeof(T));
    for (std::size_t rank = 1; rank < calls.size(); ++rank) {
        const T* values = static_cast<const T*>(calls[rank]->out);
        for (std::size_t i = 0; i < count; ++i) {
            if (reduction == Reduction::sum) result[i] = static_cast<T>(result[i] + values[i]);
            if (reduction == Reduction::max) result[i] = std::max(result[i], values[i]);
            if (reduction == Reduction::min) result[i] = std::min(result[i], values[i]);
        }
    }
    for (const Call* call : calls) std::memcpy(call->out, result.data(), count * sizeof(T));
}

void reduce(const std::vector<Call*>& calls) {
    switch (calls[0]->type) {
        case ElementType::u8:
            return reduce<std::uint8_t>(calls, calls[0]->reduction);
        case ElementType::i32:
            return reduce<std::int32_t>(calls, calls[0]->reduction);
        case ElementType::i64:
            return reduce<std::int64_t>(calls, calls[0]->reduction);
        case ElementType::u32:
            return reduce<std::uint32_t>(calls, calls[0]->reduction);
        case ElementType::u64:
            return reduce<std::uint64_t>(calls, calls[0]->reduction);
        case ElementType::f32:
        case ElementType::f64:
            break;  // the public interface refuses them
    }
    throw Error(ExitCode::internal_error, {"all_reduce", "type", "an integer", "a floating-point number", ""});
}

/// What the last rank to arrive does for all of them.
void complete(const std::vector<Call*>& calls) {
    const Call& first = *calls[0];
    for (std::size_t rank = 1; rank < calls.size(); ++rank) {
        if (!fit(first, *calls[rank])) {
            throw Error(ExitCode::internal_error,
                        {"collective", "rank " + std::to_string(rank),
                         name_of(first.operation) + (" of " + std::to_string(first.count)),
                         name_of(calls[rank]->operation) + (" of " + std::to_string(calls[rank]->count)), ""});
        }
    }
    if (first.operation == Operation::broadcast) {
        const Call& root = *calls[static_cast<std::size_t>(first.root)];
        for (const Call* call : calls) {
            if (call != &root && root.count > 0) std::memcpy(call->out, root.out, root.count * size_of(root.type));
        }
    }
    if (first.operation == Operation::all_reduce) reduce(calls);
    if (first.operation == Operation::gather || first.operation == Operation::all_gather) {
        Parts parts;
        for (const Call* call : calls) {
            const auto* bytes = static_cast<const std::byte*>(call->in);
            parts.emplace_back(bytes, bytes + call->count);
        }
        for (std::size_t rank = 0; rank < calls.size(); ++rank) {
            const bool gets_all = first.operation == Operation::all_gather || static_cast<int>(rank) == first.root;
            if (gets_all) *calls[rank]->parts = parts;
        }
    }
}

class ThreadGroup {
public:
    ThreadGroup(int ranks, double stall_timeout_seconds)
        : ledger(ranks), calls_(static_cast<std::size_t>(ranks), nullptr), stall_timeout_(stall_timeout_seconds) {}

    void meet(int rank, Call& call) {
        std::unique_lock lock(mutex_);
        if (failed_) throw RankStopped();
        const std::int64_t round = round_;
        calls_[static_cast<std::size_t>(rank)] = &call;
        if (std::count(calls_.begin(), calls_.end(), nullptr) == 0) {
            complete(calls_);
            std::fill(calls_.begin(), calls_.end(), nullptr);
            ++round_;
            changed_.notify_all();
            return;
        }
        wait(
            lock, [&] { return round_ != round; },
            [&] {
                std::string missing;
                for (std::size_t other = 0; other < calls_.size(); ++other) {
                    if (calls_[other] == nullptr)
                        missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(other);
                }
                return stall(name_of(call.operation) + (" #" + std::to_string(round + 1)), missing);
            });
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
    std::vector<Call*> calls_;
    std::int64_t round_ = 0;
    bool failed_ = false;
    const double stall_timeout_;
};

class ThreadCommunicator final : public Communicator {
public:
    ThreadCommunicator(ThreadGroup& group, int rank, int size) : group_(group), rank_(rank), size_(size) {}

    [[nodiscard]] int rank() const noexcept override { return rank_; }
    [[nodiscard]] int size() const noexcept override { return size_; }
    void barrier() override { meet({.operation = Operation::barrier}); }

    void throw_deferred() {
        if (deferred_) std::rethrow_exception(std::exchange(deferred_, nullptr));
    }
    void defer(std::exception_ptr failure) noexcept { deferred_ = std::move(failure); }
    std::int64_t begin_stage() noexcept { return ++stages_; }
    [[nodiscard]] ThreadGroup& group() noexcept { return group_; }

protected:
    void broadcast_raw(void* data, std::size_t count, ElementType type, int root) override {
        meet({.operation = Operation::broadcast, .out = data, .count = count, .type = type, .root = root});
    }
    void all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) override {
        meet({.operation = Operation::all_reduce, .out = data, .count = count, .type = type, .reduction = reduction});
    }
    Parts gather_raw(const void* mine, std::size_t bytes, int root) override {
        Parts parts;
        meet({.operation = Operation::gather, .in = mine, .parts = &parts, .count = bytes, .root = root});
        return parts;
    }
    Parts all_gather_raw(const void* mine, std::size_t bytes) override {
        Parts parts;
        meet({.operation = Operation::all_gather, .in = mine, .parts = &parts, .count = bytes});
        return parts;
    }
    std::unique_ptr<WorkClaims> make_claims(std::span<const std::int64_t> order,
                                            std::function<void(std::int64_t)> on_finished) override;

private:
    void meet(Call call) {
        throw_deferred();
        group_.meet(rank_, call);
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
