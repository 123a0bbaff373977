#pragma once
// What is learnt, the same on every rank.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../shared.hpp"
#include "idistill/propagation/influence_network.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/work/work.hpp"
#include "judge.hpp"
#include "learning.hpp"

namespace idistill::propagation {

struct NetworkFit {
    Learnt pairs;                            ///< of the columns that stand for targets; without them nothing
    Learnt samples;                          ///< of what belongs to a sample alone; where there is none nothing
    std::int64_t labelled = 0, targets = 0;  ///< samples and columns that were learnt from
    std::int64_t held_samples = 0, held_targets = 0;  ///< and that were not
    Agreement agreement;
    Trust trust;
    torch::Tensor leave_one_out;  ///< (L x C) as influence is written; NaN for landmarks that were learnt from
    double seconds = 0.0;         ///< of learning, on rank 0
};

/// What a run costs, in planned FLOPs.
struct NetworkCost {
    double labels = 0.0, learning = 0.0, prediction = 0.0;
    double all_labels = 0.0;  ///< of every eligible sample, at the mean cost of those labelled
};

/// Shapes of the two networks; without outputs there is none.
struct NetworkShapes {
    NetworkShape pairs{.outputs = 0}, samples{.outputs = 0, .pairs = false};
    [[nodiscard]] std::int64_t parameters() const {
        return (pairs.outputs > 0 ? pairs.parameters() : 0) + (samples.outputs > 0 ? samples.parameters() : 0);
    }
};

/// What was learnt, ready to predict.
class Networks {
public:
    /// `columns` (C x e): embeddings of what the columns stand for.
    Networks(const NetworkShapes& shapes, const NetworkFit& fit, const torch::Tensor& columns);
    /// (n x fitted) of embeddings (n x e).
    [[nodiscard]] torch::Tensor fitted(const torch::Tensor& embedding) const;
    /// Where pairs were learnt.
    [[nodiscard]] const InfluenceNetwork& of_pairs() const { return *pairs_; }

private:
    std::optional<InfluenceNetwork> pairs_, samples_;
    torch::Tensor right_;  ///< (C) halves of the columns
};

/// What a fit is made with.
struct FitPlan {
    const NetworkShapes& shapes;
    const NetworkSettings& settings;
    const influence::Layout& layout;
    torch::Tensor columns;    ///< (C x e); undefined without pairs
    std::int64_t number = 0;  ///< of the fit, one after the other
    std::uint64_t seed = 0;
};

/// Learns from the landmarks at `place` (usable_landmarks()); on rank 0 alone. `targets_in_pool`: columns stand for
/// samples of the pool. Throws Error(bad_input) where no pair is left to learn from.
NetworkFit fit_networks(const work::Work& work, const FitPlan& plan, const Landmarks& landmarks,
                        const torch::Tensor& place, const Tasks& tasks, const data::CorpusIndex& pool,
                        bool targets_in_pool);
/// Collective: what rank 0 learnt, on every rank.
void broadcast(comm::Communicator& comm, NetworkFit& fit);

}  // namespace idistill::propagation
