// Optimal weights as a selection (Influence Distillation, arXiv 2505.19051).

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/selection/budget.hpp"
#include "idistill/selection/members.hpp"
#include "idistill/selection/options.hpp"
#include "idistill/selection/settings.hpp"
#include "idistill/selection/weight_limits.hpp"
#include "idistill/selection/weighted.hpp"
#include "request.hpp"

namespace idistill::selection {

Member weighted_member();  // listed in members.cpp

namespace {

constexpr double single = 4.0;  // bytes of fp32
constexpr double twice = 8.0;   // bytes of fp64, int64

class Weighted final : public Selector {
public:
    explicit Weighted(const options::Values& values)
        : values_(values), settings_(values.of<WeightedSettings>()), budget_(values.of<BudgetSettings>()) {}

    [[nodiscard]] bool wants_extras() const override {
        return second_order() && settings_.curvature == Curvature::hessian;
    }

    /// Row numbers, mean influence and score of a rank's rows (whole blocks of 1/1024 of the pool, weighted.hpp), at
    /// second order all their influences, or the factor of the Hessian, what the constant part of an optimizer's step
    /// takes off the mean, and all but this again for the rows that --select keeps, at worst all of them on one rank.
    void plan(plan::Plan& plan, const SelectionShape& shape) const override {
        const auto pool = static_cast<double>(shape.rows);
        const auto factor = !second_order() ? 0.0 : static_cast<double>(wants_extras() ? shape.extras : shape.columns);
        const double row = 3.0 * twice + single * factor;
        const double offset = second_order() && settings_.learning_rate ? 2.0 * twice : 0.0;
        const double kept = !second_order()   ? 0.0
                            : budget_.percent ? static_cast<double>(selected_count(*budget_.percent, shape.rows))
                                              : static_cast<double>(budget_.samples.value_or(0));
        const double block = std::min(pool, std::max(1024.0, pool / 1024.0));
        plan.needs.push_back({.what = "influences, for the weights",
                              .per_rank = block * (row + offset) + std::min(pool, kept) * row,
                              .over_ranks = std::max(0.0, pool - block) * (row + offset),
                              .remedy = "--order first-order",
                              .during = {plan::select_step}});
    }

    void check(const PoolFacts& pool) const override {
        if (!number_is_open()) Selector::check(pool);
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
        check_room(room, number_is_open() ? std::nullopt : asked.budget.samples);
    }

    /// Weights take the mean over all columns: to them these are of one task.
    [[nodiscard]] Request request(const PoolFacts& pool) const override {
        auto request = request_of(values_, pool);
        request.rule = Rule::top_k;  // what a shortlist for weights takes
        request.column_task.assign(pool.column_task.size(), 0);
        request.tasks = 1;
        return request;
    }

    /// A source that may get a part of all weight only is capped at this part of the budget, as if weights were equal.
    [[nodiscard]] Request refinable(const PoolFacts& pool, std::int64_t budget) const override {
        auto asked = request(pool);
        for (const auto& [source, share] : shares_of(pool))
            asked.source_cap[source] = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(budget)));
        return asked;
    }

    [[nodiscard]] std::string stand_in() const override { return " (weights: by top-k)"; }

    [[nodiscard]] Selection choose(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                                   const Request& request) const override {
        WeightedRequest weighted{.lambda = settings_.lambda,
                                 .curvature = {},
                                 .learning_rate = settings_.learning_rate,
                                 .largest = largest_weight(request),
                                 .source_share = shares_of(pool)};
        auto width = influence.columns;
        if (second_order()) {
            auto terms = influence.curvature(wants_extras());
            weighted.curvature = std::move(terms.weight);
            // A learning rate that is found stands for many steps, of which none has this constant part.
            if (settings_.learning_rate) weighted.offset = std::move(terms.offset);
            if (!terms.dataset.empty()) {
                weighted.factor_columns = std::ssize(weighted.curvature);
                width += weighted.factor_columns;
            }
        }
        const auto mine = blocked_shard(pool.rows(), weight_block_rows(pool.rows()), comm.rank(), comm.size());
        const auto read = [&influence, width](std::int64_t first, std::int64_t count, std::span<float> out) {
            influence.read(first, count, width, out);
        };
        return select_weighted(comm, {mine.first, mine.count, width, read}, request, weighted);
    }

    [[nodiscard]] std::string report(const Selection& selection, const PoolFacts& pool) const override {
        if (!selection.report) return {};
        const auto& report = *selection.report;
        std::string text = fmt::format(
            "weights: {} samples, lambda {:.4g}, threshold {:.4g}, objective {:.6g} a sample, "
            "{} Newton steps",
            report.support, report.lambda, report.threshold, report.objective / static_cast<double>(pool.rows()),
            report.iterations);
        if (report.learning_rate > 0.0)
            text += fmt::format("; learning rate {:.3g}", report.learning_rate);
        else if (second_order() && !settings_.learning_rate)
            text += "; of first order: no weights of second order gain more";
        const auto wanted =
            budget_.percent ? selected_count(*budget_.percent, pool.rows()) : budget_.samples.value_or(report.support);
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
            text += fmt::format("{}{}", i == 0 ? "; at their share: " : ", ",
                                pool.source_names[static_cast<std::size_t>(report.full[i])]);
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

private:
    [[nodiscard]] bool second_order() const { return settings_.order == Order::second; }
    [[nodiscard]] bool number_is_open() const { return settings_.lambda.value_or(0.0) > 0.0; }

    /// --max-weight as a limit of weights that add up to N; infinite without.
    [[nodiscard]] double largest_weight(const Request& request) const {
        if (!settings_.max_weight) return std::numeric_limits<double>::infinity();
        if (!settings_.max_weight_of_mean) return *settings_.max_weight;
        return *settings_.max_weight * static_cast<double>(request.eligible.size()) /
               static_cast<double>(request.budget.samples.value());
    }

    [[nodiscard]] std::map<std::int32_t, double> shares_of(const PoolFacts& pool) const {
        return source_shares(settings_, {pool.source_names.begin(), pool.source_names.end()});
    }

    options::Values values_;
    WeightedSettings settings_;
    BudgetSettings budget_;
};

}  // namespace

Member weighted_member() {
    return {.name = "weighted",
            .help = "optimal weights",
            .make = [](const options::Values& values) -> std::unique_ptr<Selector> {
                return std::make_unique<Weighted>(values);
            },
            .options = weighted_options,
            .idle = idle_weighted,
            .check = check_weighted};
}

}  // namespace idistill::selection
