#pragma once
// A network learnt from labelled samples: scaling, epochs kept in the state, early stop.

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/propagation/influence_network.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/work/work.hpp"
#include "split.hpp"

namespace idistill::propagation {

/// What is learnt, as it is. fp32.
struct Problem {
    NetworkShape shape;
    torch::Tensor rows;     ///< (n x e)
    torch::Tensor columns;  ///< (m x e); undefined: samples alone
    torch::Tensor labels;   ///< (n x m), of samples alone (n x outputs)
    Split split;
    std::vector<std::int64_t> labelled;  ///< (m) as split_samples takes it; of samples alone {-1}
};

struct Learnt {
    torch::Tensor parameters;  ///< of the best epoch, as the scaling sees them
    NetworkScaling scaling;
    /// Of every epoch: mean squared error over the variance of what is learnt, of the pairs as they were last learnt
    /// and of those held out; NaN where none are.
    std::vector<double> error, held_error;
    std::int64_t epoch = 0;  ///< the best, from 1 on
    std::int64_t pairs = 0;  ///< learnt from
};

/// The line in the cosine of the embeddings that is nearest to the labels of these pairs; slope 0 where cosines do not
/// vary.
struct CosineLine {
    double offset = 0.0, slope = 0.0;
};
/// (n x m)
torch::Tensor cosines(const torch::Tensor& rows, const torch::Tensor& columns);
CosineLine nearest_line(const torch::Tensor& cosine, const torch::Tensor& labels, const std::vector<Pair>& pairs);

/// Planned stage of learning `fits` times, its rows on rank 0: an epoch is a repeat.
plan::Stage learning_stage(const std::string& name, const std::string& title, const NetworkShape& shape,
                           const NetworkSettings& settings, std::int64_t samples, std::int64_t pairs,
                           std::int64_t fits);
/// Bytes that it holds on rank 0 beside embeddings and labels as they are.
double learning_bytes(const NetworkShape& shape, std::int64_t rows, std::int64_t columns, std::int64_t pairs);

/// On rank 0 alone: the epochs of the stage's fit number `fit`, from the first that the state does not have on.
Learnt learn(const work::Work& work, const std::string& stage, std::int64_t fit, const Problem& problem,
             const NetworkSettings& settings, std::uint64_t seed);

}  // namespace idistill::propagation
