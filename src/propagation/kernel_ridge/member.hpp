#pragma once
// What the files of the kernel ridge member share.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "idistill/embedding/embedding.hpp"
#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/propagation/propagation.hpp"
#include "idistill/propagation/settings.hpp"

namespace idistill::propagation {

/// One combination of embeddings that --embedding auto compared.
struct EmbeddingTrial {
    double cost = 0;              ///< planned FLOPs of propagating to a sample, over those of its exact influence
    double error = 0;             ///< leave-one-out: mean over tasks of 1 - R2; NaN where no task varies
    double r2_within_source = 0;  ///< mean over the tasks where it is defined, as the next two; NaN for none
    double r2 = 0;
    double spearman = 0;
};

/// What was fitted, the same on every rank; leave-one-out and trust of usable landmarks.
struct Fit {
    std::vector<std::size_t> embeddings;  ///< places of those in use
    std::size_t candidate = 0;            ///< place of this combination among all
    std::vector<EmbeddingTrial> trials;   ///< of all combinations, in their order; empty for a single one
    Solution solution;
    torch::Tensor leave_one_out;  ///< (L x C) as influence is written; NaN for landmarks that are not finite
    Trust trust;
    std::vector<KernelTrial> kernels;  ///< what --bandwidth auto and --kernel auto compared; on rank 0
};

struct ReportFacts {
    std::vector<std::string> candidates;  ///< names of all combinations
    bool damping_given = false;
};

/// Table of leave-one-out figures per task beside those of 'source name alone', the damping in use, and a warning in
/// plain words where they are low.
std::string fit_report(const Fit& fit, const Tasks& tasks, const ReportFacts& facts);

/// `names` of all embeddings, `candidates` of all combinations.
void plan_fit(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, const std::vector<std::string>& names,
              const std::vector<std::string>& candidates);
void write_fit(io::ResultWriter& writer, const Fit& fit, const std::vector<std::string>& names,
               const std::vector<std::string>& candidates);

}  // namespace idistill::propagation
