#pragma once
// What people and the result are told of what was learnt.

#include <cstdint>
#include <string>
#include <vector>

#include "fit.hpp"

namespace idistill::propagation {

/// `model_parameters`: of the language model.
std::string network_report(const NetworkFit& fit, const NetworkShapes& shapes, const NetworkCost& cost,
                           const std::vector<std::string>& tasks, double model_parameters);

void plan_network(plan::Plan& plan, std::int64_t columns, std::int64_t tasks, std::int64_t epochs,
                  const std::vector<std::string>& embeddings);
void write_network(io::ResultWriter& writer, const NetworkFit& fit, const NetworkShapes& shapes, std::int64_t epochs,
                   const std::vector<std::string>& embeddings);

}  // namespace idistill::propagation
