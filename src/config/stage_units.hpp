#pragma once

#include "idistill/config/plan.hpp"

namespace idistill::config {

/// Cuts every stage of `plan`, whose rows, tasks, columns and landmarks are known, into its units.
void cut_stages(Plan& plan, const CostModel& cost, const Settings& settings, const CorpusShape& pool,
                const CorpusShape& targets);

/// The pool's units of `embed`.
void cut_embedding(Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool);

}  // namespace idistill::config
