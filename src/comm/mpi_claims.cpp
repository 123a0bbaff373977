// Work claims of an MPI rank: letters to rank 0's helper thread, one unit ahead.

#include <utility>

#include "idistill/comm/mpi.hpp"
#include "mpi_communicator.hpp"

namespace idistill::comm {
namespace {

class MpiClaims final : public WorkClaims {
public:
    MpiClaims(MpiCommunicator& communicator, std::span<const std::int64_t> order,
              std::function<void(std::int64_t)> on_finished)
        : communicator_(communicator), stage_(communicator.begin_stage()), exceptions_(std::uncaught_exceptions()) {
        if (Service* service = communicator_.service()) service->ledger().open(stage_, order, std::move(on_finished));
        communicator_.tell(Note::claim, stage_);
    }
    MpiClaims(const MpiClaims&) = delete;
    MpiClaims& operator=(const MpiClaims&) = delete;

    ~MpiClaims() override {
        Service* service = communicator_.service();
        if (std::uncaught_exceptions() == exceptions_) {
            try {
                if (!exhausted_) communicator_.await_unit(stage_);
                communicator_.tell(Note::left_stage, stage_);
                if (service != nullptr) communicator_.await_leaving(stage_);
            } catch (...) {
                communicator_.defer(std::current_exception());
            }
        }
        if (service != nullptr) service->ledger().close(stage_);
    }

    std::optional<std::int64_t> next() override {
        if (exhausted_) return std::nullopt;
        const std::int64_t unit = communicator_.await_unit(stage_);
        if (unit == WorkLedger::nothing_left) {
            exhausted_ = true;
            return std::nullopt;
        }
        communicator_.tell(Note::claim, stage_);
        return unit;
    }

    void finished(std::int64_t unit) override { communicator_.tell(Note::finished, stage_, unit); }

private:
    MpiCommunicator& communicator_;
    const std::int64_t stage_;
    bool exhausted_ = false;
    const int exceptions_;
};

}  // namespace

std::unique_ptr<WorkClaims> MpiCommunicator::make_claims(std::span<const std::int64_t> order,
                                                         std::function<void(std::int64_t)> on_finished) {
    throw_failures();
    return std::make_unique<MpiClaims>(*this, order, std::move(on_finished));
}

std::int64_t MpiCommunicator::await_unit(std::int64_t stage) {
    std::optional<Received> answer;
    const auto arrived = [&] {
        answer = receive(mail_.get(), 0, tag::unit);
        return answer && answer->letter.number == stage;  // one of an abandoned stage is dropped
    };
    wait_until(arrived, idle_yield_seconds, [this, stage](const Answer& answer) {
        throw stalled_error("work units of stage " + std::to_string(stage), answer);
    });
    return answer->letter.value;
}

void MpiCommunicator::await_leaving(std::int64_t stage) {
    const WorkLedger& ledger = service_->ledger();
    wait_until([&] { return ledger.still_at_work(stage).empty(); }, idle_yield_seconds,
               [&](const Answer&) {
                   std::string found;
                   for (const int rank : ledger.still_at_work(stage))
                       found += (found.empty() ? "" : ", ") + rank_name(rank);
                   throw Error(ExitCode::restart_me, {"end of the work units of stage " + std::to_string(stage), "",
                                                      "every rank within " + seconds_text(stall_timeout_),
                                                      found + " has not arrived", restart_remedy});
               });
}

}  // namespace idistill::comm
