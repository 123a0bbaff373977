#include "shortlist.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>

#include "idistill/base/finite.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/budget.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

using selection::PickedInfluence, selection::Request;

constexpr double enough = 0.95;  // of the influence gain
constexpr double unknown = std::numeric_limits<double>::quiet_NaN();

/// A count times a factor, rounded; at least 1 unless the count is 0.
std::int64_t scaled(std::int64_t count, double factor) {
    return count == 0 ? 0 : selection::rounded(static_cast<double>(count) * factor, 1);
}

void scale_caps(Request& request, double factor) {
    for (auto& [source, cap] : request.source_cap) cap = scaled(cap, factor);
}

selection::Selection select_from(comm::Communicator& comm, const std::vector<float>& values, const Request& request) {
    const auto mine = data::shard_of(static_cast<std::int64_t>(request.eligible.size()), comm.rank(), comm.size());
    const auto columns = static_cast<std::int64_t>(request.column_task.size());
    const auto read = [&](std::int64_t first, std::int64_t count, std::span<float> out) {
        std::copy_n(values.begin() + first * columns, count * columns, out.begin());
    };
    return selection::select(comm, {mine.first, mine.count, columns, read}, request);
}

/// Mean true influence of the picks over the mean of the pool.
double gain_of(const KnownPool& pool, std::size_t columns, const selection::Selection& selection,
               const PickedInfluence& picked) {
    const auto row = [&](std::size_t i) { return std::span(pool.truth).subspan(i * columns, columns); };
    const std::size_t rows = pool.truth.size() / columns;
    std::map<std::int32_t, double> means;
    double gain = 0.0;
    for (const auto& pick : selection.picks) {
        const auto [mean, is_new] = means.try_emplace(pick.column, 0.0);
        for (std::size_t i = 0; is_new && i < rows; ++i)
            mean->second += picked(row(i), pick.column) / static_cast<double>(rows);
        gain += picked(row(static_cast<std::size_t>(pick.row)), pick.column) - mean->second;
    }
    return gain / static_cast<double>(selection.picks.size());
}

/// The landmarks whose influence and leave-one-out prediction are finite, with what a selection asks of samples.
struct LandmarkPool {
    KnownPool values;
    std::vector<std::uint8_t> eligible;
    std::vector<std::int32_t> tokens, source;
};

LandmarkPool landmark_pool(const Run& run, const propagation::Landmarks& landmarks) {
    LandmarkPool pool;
    const auto& index = run.inputs.pool.index();
    const auto truth = landmarks.labels.products.narrow(1, 0, run.columns.count()).contiguous();
    const auto predicted = run.inputs.propagation->leave_one_out().contiguous();
    const auto columns = truth.size(1);
    const auto row_of = [columns](const torch::Tensor& values, std::int64_t i) {
        return std::span(values.const_data_ptr<float>() + i * columns, static_cast<std::size_t>(columns));
    };
    for (std::int64_t i = 0; i < truth.size(0); ++i) {
        const auto own = row_of(truth, i), loo = row_of(predicted, i);
        if (!all_finite(own) || !all_finite(loo)) continue;
        pool.values.truth.insert(pool.values.truth.end(), own.begin(), own.end());
        pool.values.predicted.insert(pool.values.predicted.end(), loo.begin(), loo.end());
        const auto row = static_cast<std::size_t>(landmarks.rows[static_cast<std::size_t>(i)]);
        pool.eligible.push_back(1);
        pool.tokens.push_back(index.tokens[row]);
        pool.source.push_back(index.source[row]);
    }
    return pool;
}

}  // namespace

void turn_into_shortlist(Request& request, std::int64_t samples, double factor) {
    request.budget = {.samples = samples, .tokens = {}, .at_most = true};
    scale_caps(request, factor);
}

double share_of_rows(const std::vector<selection::Pick>& picks, const std::vector<selection::Pick>& others) {
    std::set<std::int64_t> rows;
    for (const auto& pick : others) rows.insert(pick.row);
    const auto common =
        std::count_if(picks.begin(), picks.end(), [&](const selection::Pick& pick) { return rows.contains(pick.row); });
    return static_cast<double>(common) / static_cast<double>(picks.size());
}

Reached reached(comm::Communicator& comm, const KnownPool& pool, const Request& request, const PickedInfluence& picked,
                std::int64_t shortlist, double factor) {
    const auto columns = request.column_task.size();
    auto mixed = pool.predicted;
    if (shortlist > 0) {
        auto wider = request;
        turn_into_shortlist(wider, shortlist, factor);
        for (const auto& pick : select_from(comm, pool.predicted, wider).picks) {
            const auto first = pick.row * static_cast<std::int64_t>(columns);
            std::copy_n(pool.truth.begin() + first, columns, mixed.begin() + first);
        }
    }
    const auto best = select_from(comm, pool.truth, request), found = select_from(comm, mixed, request);
    const double most = gain_of(pool, columns, best, picked);
    return {most > 0.0 ? gain_of(pool, columns, found, picked) / most : unknown,
            share_of_rows(best.picks, found.picks)};
}

double refine_factor(const Run& run, const propagation::Landmarks& landmarks) {
    const auto& wanted = run.command.values.of<propagation::PropagationSettings>().refine;
    const auto refine_budget = run.inputs.exact.refine_budget;
    const auto pool = landmark_pool(run, landmarks);
    const auto count = std::ssize(pool.eligible);
    const auto in_pool = run.inputs.usable.eligible_rows;
    const double share = static_cast<double>(refine_budget) / static_cast<double>(in_pool);
    auto request = run.inputs.selector->refinable(pool_facts(run.inputs, run.inputs.pool.index(), run.columns.task),
                                                  refine_budget);
    request.eligible = pool.eligible;
    request.tokens = pool.tokens;
    request.source = pool.source;
    turn_into_shortlist(request, scaled(count, share), static_cast<double>(count) / static_cast<double>(in_pool));
    const auto open = static_cast<double>(in_pool - landmarks.count());  // the shortlist has no landmarks
    const PickedInfluence picked(request);
    const auto expected = [&](double factor, std::int64_t shortlist) -> Reached {
        if (count == 0) return {unknown, unknown};
        return reached(run.work.comm, pool.values, request, picked, shortlist, factor);
    };
    const auto row = [](const std::string& factor, const std::string& part, Reached share_of, const char* mark) {
        return fmt::format("  {:>6}  {:>11}  {:>13.3f}  {:>15.3f}{}\n", factor, part, share_of.gain, share_of.recall,
                           mark);
    };
    auto text = fmt::format(
        "expected share of the influence gain and of the samples of exact selection (recall), from {} "
        "predictions of {} landmarks of which {} are selected{}\n"
        "  factor  of the pool  expected gain  expected recall\n",
        run.inputs.propagation->judged_by(), count, scaled(count, share), run.inputs.selector->stand_in());
    text += row("none", "-", expected(1.0, 0), "");
    std::set<double> factors(refine_factors.begin(), refine_factors.end());
    if (wanted) factors.insert(*wanted);
    double chosen = wanted.value_or(0.0);
    for (const double factor : factors) {
        const double part = std::min(1.0, factor * static_cast<double>(refine_budget) / std::max(1.0, open));
        const auto share_of = expected(factor, scaled(count, part));
        if (chosen == 0.0 && share_of.gain >= enough) chosen = factor;
        text += row(fmt::format("{}", factor),
                    fmt::format("{:.1f}%", 100.0 * part * open / static_cast<double>(in_pool)), share_of,
                    chosen != factor ? ""
                    : wanted         ? "  given"
                                     : "  chosen");
    }
    if (chosen == 0.0) {
        chosen = refine_factors.back();
        text += fmt::format("note: none is expected to reach {}: refining {} times the budget\n", enough, chosen);
    }
    text.pop_back();
    say(run.work.comm, text);
    return chosen;
}

}  // namespace idistill::stages
