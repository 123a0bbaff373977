#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/data/rows.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/model_config.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/plan/batch.hpp"
#include "idistill/plan/plan.hpp"
#include "idistill/plan/usable_rows.hpp"

namespace idistill::model {

/// What the parts of a run plan from - shapes and lengths alone -, and where they put what they plan.
struct Planner {
    const ModelConfig& model;
    const data::CorpusIndex& pool;
    const data::CorpusIndex& targets;
    const plan::UsableRows& usable;
    const options::RunSettings& run;
    plan::Plan& plan;
    /// Stages and steps of the parts that planned before, which end before anything of the next is held.
    std::vector<std::string> earlier = {};
};

/// Bytes of a number of weights and activations.
inline double number_bytes(const options::RunSettings& run) {
    return run.dtype == options::DtypeKind::bf16 ? 2.0 : fp32_bytes;
}

/// What weights of so many fp32 bytes take: on CPUs in fp32 one copy a node, otherwise one a rank, where it computes.
inline plan::Need need_of_weights(const Planner& planner, const std::string& what, const std::string& where_shared,
                                  double bytes) {
    if (!planner.plan.gpu && planner.run.dtype != options::DtypeKind::bf16)
        return {.what = what + where_shared, .per_node = bytes};
    return {.what = what, .per_rank = bytes * number_bytes(planner.run) / fp32_bytes, .on_gpu = true};
}

/// Last position that matters and label tokens of a row, for the passes that depend on them.
inline plan::Length used_length(const data::CorpusIndex& index, std::int64_t row) {
    const auto i = static_cast<std::size_t>(row);
    return {index.last_label[i], index.labels[i]};
}
/// The same for passes over whole samples.
inline plan::Length whole_length(const data::CorpusIndex& index, std::int64_t row) {
    const auto i = static_cast<std::size_t>(row);
    return {index.tokens[i], index.labels[i]};
}

}  // namespace idistill::model
