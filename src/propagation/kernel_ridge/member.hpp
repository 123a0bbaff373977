#pragma once
// What the files of the kernel ridge member share.

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../shared.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/propagation/propagation.hpp"

namespace idistill::propagation {

/// Place of an embedding among all.
using Places = std::vector<std::size_t>;
using Numbers = std::vector<double>;

/// What --embedding auto compared: of every combination of embeddings, in their order; empty for a single one.
struct EmbeddingTrials {
    Numbers cost;              ///< planned FLOPs of propagating to a sample, over those of its exact influence
    Numbers error;             ///< leave-one-out: mean over tasks of 1 - R2; NaN where no task varies
    Numbers r2_within_source;  ///< mean over the tasks where it is defined, as the next two; NaN for none
    Numbers r2;
    Numbers spearman;
};

/// Datasets of the result.
inline constexpr std::array<std::pair<const char*, Numbers EmbeddingTrials::*>, 5> trial_datasets{
    {{"/embedding/candidate/loo_r2_within_source", &EmbeddingTrials::r2_within_source},
     {"/embedding/candidate/loo_r2", &EmbeddingTrials::r2},
     {"/embedding/candidate/loo_spearman", &EmbeddingTrials::spearman},
     {"/embedding/candidate/loo_error", &EmbeddingTrials::error},
     {"/embedding/candidate/cost", &EmbeddingTrials::cost}}};

/// What was fitted, the same on every rank; leave-one-out and trust of usable landmarks.
struct Fit {
    Places embeddings;          ///< those in use
    std::size_t candidate = 0;  ///< place of this combination among all
    EmbeddingTrials trials;
    Solution solution;
    torch::Tensor leave_one_out;  ///< (L x C) as influence is written; NaN for landmarks that are not finite
    Trust trust;
    std::vector<KernelTrial> kernels;  ///< what --bandwidth auto and --kernel auto compared; on rank 0
};

/// Collective: what rank 0 fitted goes to all, exact, but for what it compared of kernels; `landmarks` gives the
/// features of embeddings, which every rank has. Tensors go from GPU to GPU where `device` is one.
void broadcast_fit(comm::Communicator& comm, Fit& fit, const std::function<Features(const Places&)>& landmarks,
                   torch::Device device);

}  // namespace idistill::propagation
