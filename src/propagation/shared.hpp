#pragma once
// What members of the family share: which landmarks can be used, and trust as people and the result see it.

#include <torch/types.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/propagation/trust.hpp"

namespace idistill::propagation {

/// (L) int64 places of the landmarks whose labels and features are finite. Says of how many the features alone are not,
/// as in a file made from a pool where these samples had no labels. Throws Error(bad_input) where none is left.
/// `embedding`: as --embedding was given.
torch::Tensor usable_landmarks(comm::Communicator& comm, const Landmarks& landmarks, const std::string& embedding);

/// (places x Layout::fitted()) labels as they are fitted: products, per unit of the first logarithm where the layout
/// says so, and behind them the logarithms.
torch::Tensor fitted_labels(const influence::Rows& labels, const torch::Tensor& place, const influence::Layout& layout);
/// Influence of what was fitted, (n x fitted).
influence::Rows from_fitted(const torch::Tensor& fitted, const influence::Layout& layout);

/// Datasets of the result.
inline constexpr std::array<std::pair<const char*, std::vector<double> Trust::*>, 7> trust_datasets{
    {{"/column/loo_r2", &Trust::column_r2},
     {"/task/loo_r2", &Trust::task_r2},
     {"/task/loo_r2_within_source", &Trust::task_r2_within_source},
     {"/task/loo_spearman", &Trust::task_spearman},
     {"/task/loo_r2_source_only", &Trust::task_r2_source_only},
     {"/task/loo_spearman_source_only", &Trust::task_spearman_source_only},
     {"/task/label_noise", &Trust::task_label_noise}}};

/// Table of the figures per task beside those of 'source name alone', and a warning in plain words where they are low,
/// without the last line's end. `judged`: by what, "leave-one-out"; `several` false: there is nothing to judge by.
std::string trust_report(const Trust& trust, const std::vector<std::string>& tasks, const std::string& judged,
                         bool several);

}  // namespace idistill::propagation
