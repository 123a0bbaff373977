#include "idistill/selection/selector.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/budget.hpp"

namespace idistill::selection {
namespace {

/// Values by the place of their source, instead of its name.
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

}  // namespace

std::int64_t selected_count(double percent, std::int64_t rows) {
    const double share = static_cast<double>(rows) * percent / 100.0;
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share + 0.5)));
}

std::optional<std::int64_t> selected_count(const BudgetSettings& budget, std::int64_t rows) {
    return budget.percent ? selected_count(*budget.percent, rows) : budget.samples;
}

std::map<std::int32_t, std::int64_t> source_caps(const BudgetSettings& budget,
                                                 const std::vector<std::string>& source_names) {
    return by_source("--source-cap", budget.source_cap, source_names);
}

std::map<std::int32_t, double> source_shares(const WeightedSettings& weighted,
                                             const std::vector<std::string>& source_names) {
    return by_source("--source-share", weighted.source_share, source_names);
}

Request request_of(const options::Values& values, const PoolFacts& pool) {
    const auto& settings = values.of<BudgetSettings>();
    Request request;
    request.budget = {selected_count(settings, pool.rows()), settings.tokens};
    request.seed = values.of<options::RunSettings>().seed;
    request.source_cap = source_caps(settings, {pool.source_names.begin(), pool.source_names.end()});
    request.column_task.assign(pool.column_task.begin(), pool.column_task.end());
    request.tasks = pool.tasks;
    request.eligible = pool.eligible;
    request.tokens = pool.tokens;
    request.source = pool.source;
    return request;
}

void Selector::check(const PoolFacts& pool) const {
    const auto asked = request(pool);
    std::vector<std::int64_t> per_source(pool.source_names.size());
    for (std::size_t row = 0; row < pool.eligible.size(); ++row)
        if (pool.eligible[row] != 0) ++per_source[static_cast<std::size_t>(pool.source[row])];
    for (const auto& [source, cap] : asked.source_cap) {
        auto& count = per_source[static_cast<std::size_t>(source)];
        count = std::min(count, cap);
    }
    const auto selectable = std::accumulate(per_source.begin(), per_source.end(), std::int64_t{0});
    const auto wanted = asked.budget.samples.value_or(0);
    if (wanted <= selectable) return;
    const bool capped = !asked.source_cap.empty();
    throw Error(ExitCode::usage,
                {"--select",
                 {},
                 fmt::format("at most {} samples, which are eligible{}", selectable, capped ? " under the caps" : ""),
                 std::to_string(wanted),
                 fmt::format("Select fewer{}", capped ? " or raise --source-cap." : ".")});
}

Request Selector::refinable(const PoolFacts& pool, std::int64_t /*budget*/) const { return request(pool); }

}  // namespace idistill::selection
