#include "idistill/selection/selector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "idistill/base/error.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/budget.hpp"

namespace idistill::selection {

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

Selection select_ranked(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                        const Request& request) {
    const auto mine = data::shard_of(pool.rows(), comm.rank(), comm.size());
    const auto read = [&](std::int64_t first, std::int64_t count, std::span<float> out) {
        influence.read(first, count, influence.columns, out);
    };
    return select(comm, {mine.first, mine.count, influence.columns, read}, request);
}

Selection Selector::shortlist(comm::Communicator& comm, const InfluenceRows& predicted, const PoolFacts& pool,
                              const Request& asked) const {
    return select_ranked(comm, predicted, pool, asked);
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

}  // namespace idistill::selection
