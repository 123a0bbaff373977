#pragma once
// Which samples --refine computes, and how many of them are worth it.

#include "idistill/selection/task_means.hpp"
#include "run.hpp"

namespace idistill::stages {

/// What a selector's refinable() asks for turned into a shortlist: so many samples in place of the budget, fewer where
/// not so many can be picked, and source caps times `factor`.
void turn_into_shortlist(selection::Request& request, std::int64_t samples, double factor);

/// A pool in memory, whose predictions and truth are both known: (n x C) each, all finite.
struct KnownPool {
    std::vector<float> truth;
    std::vector<float> predicted;
};

/// Share of `picks` whose rows are also in `others`.
double share_of_rows(const std::vector<selection::Pick>& picks, const std::vector<selection::Pick>& others);

/// What a selection reaches of the selection by truth.
struct Reached {
    double gain = 0.0;    ///< share of its influence gain; NaN when it gains nothing
    double recall = 0.0;  ///< share of its samples
};

/// When the shortlist of `shortlist` samples by prediction, of source caps times `factor`, gets its truth before the
/// selection; 0 samples: by prediction alone. Collective; the same on every rank. `request` is what refinable() asks of
/// this pool.
Reached reached(comm::Communicator& comm, const KnownPool& pool, const selection::Request& request,
                const selection::PickedInfluence& picked, std::int64_t shortlist, double factor);

/// The factor of --refine; auto: the smallest of refine_factors whose expected share of the gain is at least
/// 0.95, otherwise the largest. Expected is what the landmarks reach with their leave-one-out predictions at the same
/// shares: of the budget in the pool, of the shortlist in what is not a landmark; weights are taken for top-k. Says the
/// table of all factors. Collective; the same on every rank.
double refine_factor(const Run& run, const propagation::Landmarks& landmarks);

}  // namespace idistill::stages
