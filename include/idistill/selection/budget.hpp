#pragma once
// What --select and --source-cap come to in a pool.

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "idistill/selection/settings.hpp"

namespace idistill::selection {

/// A computed count of samples, rounded half up, from `least` to `most`.
std::int64_t rounded(double count, std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max());

/// `percent` of `rows`, rounded half up, at least 1: what --select P% asks for.
std::int64_t selected_count(double percent, std::int64_t rows);
/// Samples of the budget; nothing where it is in tokens.
std::optional<std::int64_t> selected_count(const BudgetSettings& budget, std::int64_t rows);

/// Values by the place of their source in `source_names`, instead of its name. T: std::int64_t, double. Throws
/// Error(usage) that names `option` for another name.
template <class T>
std::map<std::int32_t, T> by_source(const char* option, const std::map<std::string, T>& by_name,
                                    const std::vector<std::string>& source_names);

/// Most samples of each capped source, by its place in `source_names`. Throws Error(usage) for a cap on another name.
std::map<std::int32_t, std::int64_t> source_caps(const BudgetSettings& budget,
                                                 const std::vector<std::string>& source_names);

}  // namespace idistill::selection
