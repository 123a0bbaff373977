#include "idistill/selection/budget.hpp"

#include <algorithm>
#include <cmath>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"

namespace idistill::selection {
namespace {

/// The first names and how many there are beside them.
std::string listed(const std::vector<std::string>& names) {
    constexpr std::size_t most = 12;
    const std::size_t shown = std::min(most, names.size());
    std::string text;
    for (std::size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : ", ") + names[i];
    return names.size() > shown ? text + " and " + std::to_string(names.size() - shown) + " more" : text;
}

/// Values by the place of their source, instead of its name.
template <class T>
std::map<std::int32_t, T> by_source(const char* option, const std::map<std::string, T>& by_name,
                                    const std::vector<std::string>& source_names) {
    std::map<std::int32_t, T> values;
    for (const auto& [name, value] : by_name) {
        const auto found = std::find(source_names.begin(), source_names.end(), name);
        if (found == source_names.end()) {
            const std::string near = nearest(name, source_names);
            throw Error(ExitCode::usage,
                        {option,
                         {},
                         "the name of a source of the pool",
                         in_quotes(name),
                         near.empty() ? "The pool has " + listed(source_names) + "." : "Did you mean " + near + "?"});
        }
        values[static_cast<std::int32_t>(found - source_names.begin())] = value;
    }
    return values;
}

}  // namespace

std::int64_t selected_count(double percent, std::int64_t rows) {
    const double share = static_cast<double>(rows) * percent / 100.0;
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share + 0.5)));
}

std::map<std::int32_t, std::int64_t> source_caps(const BudgetSettings& budget,
                                                 const std::vector<std::string>& source_names) {
    return by_source("--source-cap", budget.source_cap, source_names);
}

std::map<std::int32_t, double> source_shares(const WeightedSettings& weighted,
                                             const std::vector<std::string>& source_names) {
    return by_source("--source-share", weighted.source_share, source_names);
}

}  // namespace idistill::selection
