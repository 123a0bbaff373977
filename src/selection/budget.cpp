#include "idistill/selection/budget.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"

namespace idistill::selection {

template <class T>
std::map<std::int32_t, T> by_source(const char* option, const std::map<std::string, T>& by_name,
                                    const std::vector<std::string>& source_names) {
    constexpr std::size_t listed = 12;
    std::map<std::int32_t, T> values;
    for (const auto& [name, value] : by_name) {
        const auto found = std::find(source_names.begin(), source_names.end(), name);
        if (found == source_names.end()) {
            const auto near = nearest(name, source_names);
            const auto shown = std::span(source_names).first(std::min(listed, source_names.size()));
            const auto more = source_names.size() - shown.size();
            throw Error(ExitCode::usage, {option,
                                          {},
                                          "the name of a source of the pool",
                                          in_quotes(name),
                                          near.empty() ? fmt::format("The pool has {}{}.", fmt::join(shown, ", "),
                                                                     more > 0 ? fmt::format(" and {} more", more) : "")
                                                       : "Did you mean " + near + "?"});
        }
        values[static_cast<std::int32_t>(found - source_names.begin())] = value;
    }
    return values;
}

template std::map<std::int32_t, std::int64_t> by_source(const char*, const std::map<std::string, std::int64_t>&,
                                                        const std::vector<std::string>&);
template std::map<std::int32_t, double> by_source(const char*, const std::map<std::string, double>&,
                                                  const std::vector<std::string>&);

std::int64_t rounded(double count, std::int64_t least, std::int64_t most) {
    const double whole = std::floor(count + 0.5);
    return whole < static_cast<double>(most) ? std::max(least, static_cast<std::int64_t>(whole)) : most;
}

std::int64_t selected_count(double percent, std::int64_t rows) {
    return rounded(static_cast<double>(rows) * percent / 100.0, 1);
}

std::optional<std::int64_t> selected_count(const BudgetSettings& budget, std::int64_t rows) {
    return budget.percent ? selected_count(*budget.percent, rows) : budget.samples;
}

std::map<std::int32_t, std::int64_t> source_caps(const BudgetSettings& budget,
                                                 const std::vector<std::string>& source_names) {
    return by_source("--source-cap", budget.source_cap, source_names);
}

}  // namespace idistill::selection
