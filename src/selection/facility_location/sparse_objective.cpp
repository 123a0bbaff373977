#include "sparse_objective.hpp"

#include <utility>

namespace idistill::selection {
namespace {

class SparseObjective final : public Objective {
public:
    SparseObjective(comm::Communicator& comm, RepresentedSamples samples, Neighbours neighbours)
        : comm_(comm), samples_(std::move(samples)), neighbours_(std::move(neighbours)) {
        samples_.drop_factors();
    }

    std::vector<double> gains(std::span<const std::int64_t> rows, bool /*keep*/) override {
        BlockGains gains(rows.size(), samples_.blocks().count());
        const auto cover = samples_.cover();
        for (std::size_t i = 0; i < rows.size(); ++i) {
            ListedGain listed(gains, i, samples_.blocks(), samples_.first_block());
            for (const auto& [place, similarity] : neighbours_.of(rows[i]))
                if (const float reached = samples_.reached(place, similarity); reached > cover[place])
                    listed.add(place, reached - cover[place]);
        }
        return gains.over_ranks(comm_);
    }

    void add(std::int64_t row) override {
        for (const auto& [place, similarity] : neighbours_.of(row)) samples_.cover_to(place, similarity);
    }

    [[nodiscard]] double gain_flops() const override {
        return 2.0 * static_cast<double>(neighbours_.similarity.size()) / static_cast<double>(neighbours_.start.size());
    }

private:
    comm::Communicator& comm_;
    RepresentedSamples samples_;
    Neighbours neighbours_;
};

}  // namespace

std::unique_ptr<Objective> sparse_objective(comm::Communicator& comm, RepresentedSamples samples,
                                            Neighbours neighbours) {
    return std::make_unique<SparseObjective>(comm, std::move(samples), std::move(neighbours));
}

}  // namespace idistill::selection
