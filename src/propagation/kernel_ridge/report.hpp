#pragma once
// What people and the result are told of a fit.

#include <string>
#include <vector>

#include "member.hpp"

namespace idistill::propagation {

/// Table of leave-one-out figures per task beside those of 'source name alone', the damping in use, and a warning in
/// plain words where they are low. `candidates`: names of all combinations.
std::string fit_report(const Fit& fit, const Tasks& tasks, const std::vector<std::string>& candidates,
                       bool damping_given);

/// `names` of all embeddings, `candidates` of all combinations.
void plan_fit(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, const std::vector<std::string>& names,
              const std::vector<std::string>& candidates);
void write_fit(io::ResultWriter& writer, const Fit& fit, const std::vector<std::string>& names,
               const std::vector<std::string>& candidates);

}  // namespace idistill::propagation
