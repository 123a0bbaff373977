// What refining was worth: one pass over the pool in fixed blocks, whichever rank reads them; sums of blocks are added
// in block order on rank 0.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "equal_influence.hpp"
#include "idistill/base/finite.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/propagation/trust.hpp"
#include "rated_pool.hpp"
#include "shortlist.hpp"

namespace idistill::stages {
namespace {

using selection::Pick;

struct Weighed {
    Pick pick;
    double weight = 1.0;
};

/// What was picked, in order of rows.
std::vector<Weighed> by_row(const selection::Selection& selection) {
    std::vector<Weighed> picks;
    for (std::size_t i = 0; i < selection.picks.size(); ++i)
        picks.push_back({selection.picks[i], selection.weight.empty() ? 1.0 : selection.weight[i]});
    std::sort(picks.begin(), picks.end(), [](const Weighed& a, const Weighed& b) { return a.pick.row < b.pick.row; });
    return picks;
}

/// What is read in one pass. Lists: -1 (no column), then the columns.
class Pass {
public:
    Pass(const Run& run, const selection::Request& request, const selection::Selection& refined,
         const selection::Selection& predicted)
        : run_(run),
          predicted_(without_refinement(run)),
          columns_(run.columns.task.size()),
          tasks_(static_cast<std::size_t>(run.inputs.usable.tasks)),
          picked_(request),
          task_means_(run.columns.task, static_cast<std::int32_t>(tasks_)),
          selections_{by_row(refined), by_row(predicted)} {}

    /// Numbers of a block: finite rows, their sum on every list, picked influence of both selections.
    [[nodiscard]] std::size_t width() const { return 1 + (columns_ + 1) + selections_.size(); }

    /// Appends the block's numbers to `out`, how many follow, and task means of its refined rows, predicted then exact.
    void read(data::RowRange rows, std::vector<double>& out) const {
        const auto columns = static_cast<std::int64_t>(columns_);
        std::vector<float> values(static_cast<std::size_t>(rows.count) * columns_);
        auto before = values;
        read_products(run_, columns, rows, values);
        read_products(predicted_, columns, rows, before);
        std::vector<double> block(width(), 0.0);
        const auto row_of = [&](const std::vector<float>& all, std::int64_t row) {
            return std::span(all).subspan(static_cast<std::size_t>(row - rows.first) * columns_, columns_);
        };
        for (auto row = rows.first; row < rows.end(); ++row) {
            const auto influence = row_of(values, row);
            if (!all_finite(influence)) continue;
            block[0] += 1.0;
            for (std::size_t list = 0; list <= columns_; ++list)
                block[1 + list] += picked_(influence, static_cast<std::int32_t>(list) - 1);
        }
        for (std::size_t i = 0; i < selections_.size(); ++i)
            add_picks(selections_[i], rows, values, block[2 + columns_ + i]);
        out.insert(out.end(), block.begin(), block.end());
        const auto count = out.size();
        out.push_back(0.0);

        const auto& refined = run_.refinement->rows;
        const auto first = std::lower_bound(refined.begin(), refined.end(), rows.first);
        for (auto row = first; row != refined.end() && *row < rows.end(); ++row) {
            if (!all_finite(row_of(values, *row))) continue;
            for (const auto* all : {&before, &values}) {
                out.resize(out.size() + tasks_);
                task_means_(row_of(*all, *row), std::span(out).last(tasks_));
            }
        }
        out[count] = static_cast<double>(out.size() - count - 1);
    }

private:
    /// A pick whose exact influence is not finite, which only prediction alone can have, counts as influence 0.
    void add_picks(const std::vector<Weighed>& picks, data::RowRange rows, const std::vector<float>& values,
                   double& sum) const {
        const auto before = [](const Weighed& one, std::int64_t row) { return one.pick.row < row; };
        for (auto one = std::lower_bound(picks.begin(), picks.end(), rows.first, before);
             one != picks.end() && one->pick.row < rows.end(); ++one) {
            const auto influence =
                std::span(values).subspan(static_cast<std::size_t>(one->pick.row - rows.first) * columns_, columns_);
            if (all_finite(influence)) sum += one->weight * picked_(influence, one->pick.column);
        }
    }

    const Run& run_;
    Run predicted_;
    std::size_t columns_;
    std::size_t tasks_;
    selection::PickedInfluence picked_;
    selection::TaskMeans task_means_;
    std::array<std::vector<Weighed>, 2> selections_;
};

/// On rank 0: the blocks' sums added in their order, and the compared rows in order of the pool.
struct Collected {
    std::vector<double> sums;
    std::vector<double> compared;
};

Collected collect(const Run& run, const Pass& pass) {
    const auto rows = run.inputs.usable.pool_rows;
    const auto block_rows = rows_of_block(run.inputs.influence->layout().columns);
    const auto blocks = (rows + block_rows - 1) / block_rows;
    std::vector<double> mine;
    for (std::int64_t block = run.work.comm.rank(); block < blocks; block += run.work.comm.size())
        pass.read({block * block_rows, std::min(block_rows, rows - block * block_rows)}, mine);
    const auto all = run.work.comm.gather(std::span<const double>(mine));
    Collected whole{std::vector<double>(pass.width(), 0.0), {}};
    if (!run.work.comm.is_root()) return whole;
    std::vector<std::vector<double>::const_iterator> next;
    for (const auto& part : all) next.push_back(part.begin());
    for (std::int64_t block = 0; block < blocks; ++block) {
        auto& at = next[static_cast<std::size_t>(block % run.work.comm.size())];
        for (double& sum : whole.sums) sum += *at++;
        const auto count = static_cast<std::ptrdiff_t>(*at++);
        whole.compared.insert(whole.compared.end(), at, at + count);
        at += count;
    }
    return whole;
}

/// Mean influence of the picks by weight over the mean of the pool; `picked` is their weighted sum.
double weighted_gain(const selection::Selection& selection, double picked, const std::vector<double>& sums) {
    double expected = 0.0, weight = 0.0;
    for (const auto& one : by_row(selection)) {
        expected += one.weight * sums[static_cast<std::size_t>(2 + one.pick.column)] / sums[0];
        weight += one.weight;
    }
    return (picked - expected) / weight;
}

/// Agreement of prediction and truth on the refined rows, a line a task.
std::string agreement(const std::vector<std::string>& names, const std::vector<double>& compared) {
    const std::size_t tasks = names.size();
    std::size_t width = 4;
    for (const auto& name : names) width = std::max(width, name.size());
    auto text = fmt::format("  {:<{}}  {:>7} {:>9}\n", "task", width, "R2", "Spearman");
    for (std::size_t task = 0; task < tasks; ++task) {
        std::vector<double> predicted, exact;
        for (std::size_t i = task; i + tasks < compared.size(); i += 2 * tasks) {
            predicted.push_back(compared[i]);
            exact.push_back(compared[i + tasks]);
        }
        text += fmt::format("  {:<{}}  {:>7.3f} {:>9.3f}\n", names[task], width,
                            propagation::r_squared(exact, predicted), propagation::spearman(exact, predicted));
    }
    return text;
}

}  // namespace

double report_refinement(const Run& run, const selection::Selection& selection) {
    const auto unrefined = without_refinement(run);
    const auto pool = rated_pool(unrefined);
    const auto& selector = *run.inputs.selector;
    auto request = selector.request(pool.facts);
    request.budget.at_most = true;  // the best prediction alone may exceed a token budget: nothing to compare with
    const auto alone = selector.choose(run.work.comm, to_choose_by(run.work.comm, pool), pool.facts, request);
    const auto [sums, compared] = collect(run, Pass(run, request, selection, alone));
    double ratio = std::numeric_limits<double>::quiet_NaN();
    if (run.work.comm.is_root()) {
        const double gain = weighted_gain(selection, sums[sums.size() - 2], sums);
        const double gain_alone = weighted_gain(alone, sums[sums.size() - 1], sums);
        if (gain_alone > 0.0) ratio = gain / gain_alone;
        const auto& refinement = *run.refinement;
        say(run.work.comm,
            fmt::format("refined: {} samples beside the landmarks ({} x the budget)\n"
                        "predicted against exact influence of those refined (chosen by prediction: the agreement over "
                        "the pool is better)\n{}"
                        "of the selection {:.1f}% would have been picked by prediction alone; {}",
                        refinement.rows.size(), refinement.times_budget, agreement(tasks_of(run).names, compared),
                        100.0 * share_of_rows(selection.picks, alone.picks),
                        std::isnan(ratio)
                            ? "that gains no influence over the pool"
                            : fmt::format("its influence gain over the pool is {:.3f} x that of prediction "
                                          "alone",
                                          ratio)));
    }
    run.work.comm.broadcast(std::span(&ratio, 1));
    return ratio;
}

}  // namespace idistill::stages
