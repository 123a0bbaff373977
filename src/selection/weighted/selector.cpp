// Optimal weights as a selection (Influence Distillation, arXiv 2505.19051).

#include "selector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/base/finite.hpp"
#include "idistill/selection/budget.hpp"
#include "idistill/selection/settings.hpp"
#include "idistill/selection/weighted.hpp"

namespace idistill::selection {

namespace {

/// Sources with a share, as the groups of the problem.
struct SourceGroups {
    static constexpr std::int32_t no_weight = -2;
    std::vector<std::int32_t> source;            ///< (groups) those whose share is a limit
    std::map<std::int32_t, std::int32_t> group;  ///< their groups by source; no_weight: its samples get none

    explicit SourceGroups(const std::map<std::int32_t, double>& shares) {
        for (const auto& [of, share] : shares) {
            if (share >= 1.0) continue;
            group[of] = share > 0.0 ? static_cast<std::int32_t>(source.size()) : no_weight;
            if (share > 0.0) source.push_back(of);
        }
    }
    /// -1: in no group
    [[nodiscard]] std::int32_t of(std::int32_t a_source) const {
        const auto found = group.find(a_source);
        return found == group.end() ? -1 : found->second;
    }
};

struct Weighed {
    double weight = 0.0;
    std::int64_t row = 0;
};

std::vector<Figure> figures_of(const WeightReport& report) {
    return {{"weights_lambda", report.lambda},
            {"weights_learning_rate", report.learning_rate},
            {"weights_threshold", report.threshold},
            {"weights_objective", report.objective},
            {"weights_gap", report.gap},
            {"weights_support", report.support},
            {"weights_reachable", report.reachable},
            {"weights_iterations", report.iterations},
            {"weights_clipped", report.clipped},
            {"weights_at_largest", report.largest},
            {"weights_full_sources", std::ssize(report.full)}};
}

class Weighted final : public Selector {
public:
    explicit Weighted(const options::Values& values)
        : values_(values), settings_(values.of<WeightedSettings>()), budget_(values.of<BudgetSettings>()) {}

    [[nodiscard]] bool wants_extras() const override {
        return second_order() && settings_.curvature == Curvature::hessian;
    }
    [[nodiscard]] bool leaves_number_open() const override { return settings_.leaves_number_open(); }

    /// Row numbers, mean influence and score of a rank's rows (whole blocks of 1/1024 of the pool, weighted.hpp), at
    /// second order all their influences, or the factor of the Hessian, what the constant part of an optimizer's step
    /// takes off the mean, and all but this again for the rows that --select keeps, at worst all of them on one rank.
    void plan(plan::Plan& plan, const SelectionShape& shape) const override {
        if (wants_extras() && shape.extras == 0)
            throw Error(ExitCode::usage,
                        {"--curvature", {}, "fisher, as this influence has no curvature of its own", "hessian", {}});
        const auto pool = static_cast<double>(shape.rows);
        const auto factor = !second_order() ? 0.0 : static_cast<double>(wants_extras() ? shape.extras : shape.columns);
        const double row = 3 * sizeof(double) + sizeof(float) * factor;
        const double offset = second_order() && settings_.learning_rate ? 2 * sizeof(double) : 0;
        const double kept = second_order() ? static_cast<double>(selected_count(budget_, shape.rows).value_or(0)) : 0.0;
        const double block = std::min(pool, std::max(1024.0, pool / 1024.0));
        std::vector<std::string> during{plan::select_step};
        if (plan.find(plan::refine_step) != nullptr && shortlists_by_weight()) during.emplace_back(plan::refine_step);
        plan.needs.push_back({.what = "influences, for the weights",
                              .per_rank = block * (row + offset) + std::min(pool, kept) * row,
                              .over_ranks = std::max(0.0, pool - block) * (row + offset),
                              .remedy = "--order first-order",
                              .during = std::move(during)});
    }

    void check(const PoolFacts& pool) const override {
        if (!leaves_number_open()) Selector::check(pool);
        if (!settings_.max_weight && settings_.source_share.empty()) return;
        const auto asked = request(pool);
        const auto shares = shares_of(pool);
        WeightRoom room;
        room.total = static_cast<double>(asked.eligible.size());
        room.largest = largest_weight(asked);
        std::vector<std::size_t> group(pool.source_names.size(), shares.size());
        for (const auto& [source, share] : shares) {
            group[static_cast<std::size_t>(source)] = room.group_most.size();
            room.group_most.push_back(share * room.total);
        }
        room.rows.assign(shares.size() + 1, 0);
        for (std::size_t row = 0; row < asked.eligible.size(); ++row)
            if (asked.eligible[row] != 0) ++room.rows[group[static_cast<std::size_t>(asked.source[row])]];
        std::size_t place = 0;
        for (const auto& [source, share] : shares)
            if (room.rows[place++] == 0)
                throw Error(ExitCode::usage,
                            {"--source-share",
                             {},
                             "a source with eligible samples",
                             fmt::format("none in '{}'", pool.source_names[static_cast<std::size_t>(source)]),
                             "Leave its share out."});
        check_room(room, leaves_number_open() ? std::nullopt : asked.budget.samples);
    }

    /// Weights take the mean over all columns: to them these are of one task.
    [[nodiscard]] Request request(const PoolFacts& pool) const override {
        auto request = request_of(values_, pool);
        request.column_task.assign(pool.column_task.size(), 0);
        request.tasks = 1;
        return request;
    }

    /// A source that may get a part of all weight only is capped at this part of the budget, as if weights were equal.
    [[nodiscard]] Request refinable(const PoolFacts& pool, std::int64_t budget) const override {
        auto asked = request(pool);
        asked.rule = Rule::top_k;
        for (const auto& [source, share] : shares_of(pool))
            asked.source_cap[source] = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(budget)));
        return asked;
    }

    /// By the weights that the predictions would give: the best by the mean alone do the same good over and over, and
    /// what was refined would crowd out what was not. Under limits of weights, which a longer list need not meet, by
    /// refinable().
    [[nodiscard]] Selection shortlist(comm::Communicator& comm, const InfluenceRows& predicted, const PoolFacts& pool,
                                      const Request& asked) const override {
        if (!shortlists_by_weight()) return Selector::shortlist(comm, predicted, pool, asked);
        return choose(comm, predicted, pool, asked);
    }

    [[nodiscard]] std::string stand_in() const override { return " (weights: by top-k)"; }

    /// Rows of positive weight in order of weight, ties by row. p is the mean over the columns of influence, F these or
    /// the extras behind them. This rank's rows are held in memory: at second order, and 24 bytes each.
    [[nodiscard]] Selection choose(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                                   const Request& request) const override {
        const SourceGroups groups(shares_of(pool));
        auto problem = limits_of(request, pool, groups);
        // What samples have in common tells none of them from the others either.
        const bool curved = second_order() && !influence.equal;
        const auto terms = curved ? influence.curvature(wants_extras()) : influence::CurvatureTerms();
        problem.curvature = terms.weight;
        read_rows(comm, influence, request, groups, terms, problem);
        auto samples = request.budget.samples;
        if (samples && request.budget.at_most) {
            std::int64_t rows = std::ssize(problem.row);
            comm.all_reduce(std::span(&rows, 1), comm::Reduction::sum);
            samples = std::min(*samples, rows);
            if (*samples == 0) return {};
        }
        auto weights = solve(comm, std::move(problem), samples, influence.equal);
        if (settings_.learning_rate && !terms.offset.empty())
            weights.report.best_learning_rate = std::numeric_limits<double>::infinity();
        weights.report.curved = !curved || !terms.weight.empty();
        std::vector<Weighed> mine, all;
        for (std::size_t i = 0; i < weights.row.size(); ++i) mine.push_back({weights.weight[i], weights.row[i]});
        for (const auto& part : comm.all_gather(std::span<const Weighed>(mine)))
            all.insert(all.end(), part.begin(), part.end());
        std::sort(all.begin(), all.end(), [](const Weighed& a, const Weighed& b) {
            return a.weight != b.weight ? a.weight > b.weight : a.row < b.row;
        });
        Selection selection;
        selection.figures = figures_of(weights.report);
        selection.report = report_of(weights.report, groups, pool);
        for (const auto& one : all) {
            selection.picks.push_back({one.row, -1});
            selection.weight.push_back(one.weight);
            selection.tokens += request.tokens[static_cast<std::size_t>(one.row)];
        }
        return selection;
    }

private:
    [[nodiscard]] std::string report_of(const WeightReport& report, const SourceGroups& groups,
                                        const PoolFacts& pool) const {
        std::string text = fmt::format(
            "weights: {} samples, lambda {:.4g}, threshold {:.4g}, objective {:.6g} a sample, "
            "{} Newton steps",
            report.support, report.lambda, report.threshold, report.objective / static_cast<double>(pool.rows()),
            report.iterations);
        if (!report.curved)
            text += fmt::format("; of first order: this influence has no curvature{}",
                                settings_.learning_rate ? ", and --learning-rate decides nothing" : "");
        else if (report.learning_rate > 0.0)
            text += fmt::format("; learning rate {:.3g}", report.learning_rate);
        else if (second_order() && !settings_.learning_rate && report.lambda > 0.0)
            text += "; of first order: no weights of second order gain more";
        const auto wanted = selected_count(budget_, pool.rows()).value_or(report.support);
        if (report.reachable != report.support)
            text +=
                fmt::format("; {} was the smallest number met that is not below --select, cut to the largest weights",
                            report.reachable);
        else if (!settings_.lambda && wanted != report.support)
            text +=
                fmt::format("; {} would part samples of equal influence{}: the nearest number that does not", wanted,
                            settings_.max_weight || !settings_.source_share.empty() ? " or break a limit" : "");
        if (report.largest > 0) text += fmt::format("; {} at the largest weight", report.largest);
        for (std::size_t i = 0; i < report.full.size(); ++i)
            text += fmt::format(
                "{}{}", i == 0 ? "; at their share: " : ", ",
                pool.source_names[static_cast<std::size_t>(groups.source[static_cast<std::size_t>(report.full[i])])]);
        if (report.clipped > 0) text += fmt::format("; {} directions of negative curvature left out", report.clipped);
        if (report.best_learning_rate < report.learning_rate)
            text += fmt::format(
                "\nwarning: a step of --learning-rate {:.3g} is longer than gains most along these weights, {:.3g}: "
                "further on, second order expects the target loss to rise again; use a smaller one{}",
                report.learning_rate, report.best_learning_rate, wants_extras() ? "" : " or auto");
        else if (settings_.learning_rate && report.mean_influence < 0.0)  // where p itself is to blame, no step is best
            text += fmt::format(
                "\nwarning: these weights have a mean influence of {:.3g}: in a step of --learning-rate {:.3g} the "
                "constant part of the optimizer's step outweighs the samples'; use a smaller one{}",
                report.mean_influence, report.learning_rate, wants_extras() ? "" : " or auto");
        return text;
    }

    [[nodiscard]] bool shortlists_by_weight() const {
        return second_order() && !settings_.max_weight && settings_.source_share.empty();
    }
    [[nodiscard]] bool second_order() const { return settings_.order == Order::second; }

    /// --max-weight as a limit of weights that add up to N; infinite without.
    [[nodiscard]] double largest_weight(const Request& request) const {
        if (!settings_.max_weight) return std::numeric_limits<double>::infinity();
        if (!settings_.max_weight_of_mean) return *settings_.max_weight;
        return *settings_.max_weight * static_cast<double>(request.eligible.size()) /
               static_cast<double>(request.budget.samples.value());
    }

    [[nodiscard]] std::map<std::int32_t, double> shares_of(const PoolFacts& pool) const {
        return by_source("--source-share", settings_.source_share,
                         {pool.source_names.begin(), pool.source_names.end()});
    }

    [[nodiscard]] WeightedProblem limits_of(const Request& request, const PoolFacts& pool,
                                            const SourceGroups& groups) const {
        WeightedProblem problem{
            .pool_rows = pool.rows(), .block_rows = weight_block_rows(pool.rows()), .largest = largest_weight(request)};
        const auto shares = shares_of(pool);
        for (const auto source : groups.source) problem.group_most.push_back(shares.at(source) * problem.total());
        return problem;
    }

    void read_rows(comm::Communicator& comm, const InfluenceRows& influence, const Request& request,
                   const SourceGroups& groups, const influence::CurvatureTerms& terms, WeightedProblem& problem) const {
        const auto width = influence.columns + (terms.dataset.empty() ? 0 : std::ssize(terms.weight));
        const auto mine = blocked_shard(problem.pool_rows, problem.block_rows, comm.rank(), comm.size());
        const Shard shard{mine.first, mine.count, width,
                          [&](std::int64_t first, std::int64_t count, std::span<float> out) {
                              influence.read(first, count, width, out);
                          }};
        const auto own =
            request.eligible.subspan(static_cast<std::size_t>(mine.first), static_cast<std::size_t>(mine.count));
        const auto most = static_cast<std::size_t>(std::count(own.begin(), own.end(), std::uint8_t{1}));
        problem.row.reserve(most);
        problem.influence.reserve(most);
        problem.factor.reserve(most * terms.weight.size());
        // A learning rate that is found stands for many steps, of which none has this constant part.
        const std::size_t offsets = settings_.learning_rate ? terms.offset.size() : 0;
        shard.for_each_row([&](std::int64_t row, std::span<const float> numbers) {
            if (request.eligible[static_cast<std::size_t>(row)] == 0) return;
            const auto group = groups.of(request.source[static_cast<std::size_t>(row)]);
            if (group == SourceGroups::no_weight || !all_finite(numbers)) return;
            const auto columns = numbers.first(static_cast<std::size_t>(influence.columns));
            const auto factor = terms.dataset.empty() ? columns : numbers.subspan(columns.size());
            problem.row.push_back(row);
            if (!groups.source.empty()) problem.group.push_back(group);
            problem.influence.push_back(std::accumulate(columns.begin(), columns.end(), 0.0) /
                                        static_cast<double>(columns.size()));
            if (offsets > 0) problem.offset.push_back(0.0);
            for (std::size_t c = 0; c < offsets; ++c)
                problem.offset.back() += terms.weight[c] * terms.offset[c] * static_cast<double>(factor[c]);
            if (!terms.weight.empty()) problem.factor.insert(problem.factor.end(), factor.begin(), factor.end());
        });
    }

    [[nodiscard]] Weights solve(comm::Communicator& comm, WeightedProblem problem, std::optional<std::int64_t> count,
                                bool equal) const {
        const auto& lambda = settings_.lambda;
        if (lambda == 0.0 || (equal && !lambda)) return equal_weights(comm, problem, count.value_or(0));
        const WeightedTarget target{.count = lambda ? std::nullopt : count, .lambda = lambda};
        if (problem.curvature.empty()) return solve_weights(comm, problem, target);
        return solve_second_order(comm, std::move(problem), target, settings_.learning_rate);
    }

    options::Values values_;
    WeightedSettings settings_;
    BudgetSettings budget_;
};

}  // namespace

std::vector<std::string> weight_figures() { return names_of(figures_of({})); }

std::unique_ptr<Selector> make_weighted(const options::Values& values) { return std::make_unique<Weighted>(values); }

}  // namespace idistill::selection
