#pragma once
// What DELIFT decides and plans before the model is loaded, from lengths alone.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/influence/influence.hpp"
#include "idistill/model/cost.hpp"

namespace idistill::influence {

/// Stage in which targets are read alone, and its dataset in the state.
namespace delift_state {
inline constexpr const char* targets = "targets";
inline constexpr const char* distance = "distance";
}  // namespace delift_state

struct DeliftSettings {
    std::int64_t max_context = 0;  ///< tokens of an example and a target together; 0: as many as the model takes
};

struct DeliftPlan {
    bool by_task = false;
    std::vector<std::int64_t> target_rows;  ///< (M)
    std::vector<std::int32_t> target_task;  ///< (M)
    std::vector<std::string> task_names;
    std::string joint_sha256;          ///< of pool and targets
    double flops_of_targets = 0.0;     ///< all of them behind an example, but for what follows from its length
    double flops_of_each_token = 0.0;  ///< that the example has
    plan::PassBytes pass_bytes;        ///< of the longest example and the largest micro-batch of targets

    [[nodiscard]] std::int64_t columns() const { return by_task ? std::ssize(task_names) : std::ssize(target_rows); }
};

/// Rows that cannot stand in a conversation with others: the template does not allow it, or they take more than half of
/// the context, of which an example and a target have a half each.
std::vector<plan::Quarantined> rows_not_joined(const DeliftSettings& settings, const model::ModelConfig& model,
                                               const data::CorpusIndex& index);

/// Stages and needs, and what they follow from.
DeliftPlan plan_delift(const options::Values& values, model::Planner& planner);

/// Planned FLOPs of the utilities of a pool row: one pass over it, then all targets behind its keys and values.
double utility_flops(const DeliftPlan& plan, const model::PassCost& cost, const data::CorpusIndex& pool,
                     std::int64_t row);

}  // namespace idistill::influence
