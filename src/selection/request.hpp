#pragma once

#include "idistill/selection/selector.hpp"

namespace idistill::selection {

/// Budget and caps of the settings, and all that is known of the pool: round robin until a rule says otherwise. It
/// refers to the pool. Throws Error(usage) for an unknown source.
Request request_of(const options::Values& values, const PoolFacts& pool);

}  // namespace idistill::selection
