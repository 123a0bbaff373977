// Facility locations: a subset in which every target, or every sample of the pool, finds something like itself.

#include "selector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "column_objective.hpp"
#include "greedy.hpp"
#include "held.hpp"
#include "idistill/base/error.hpp"
#include "idistill/base/finite.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/selection/settings.hpp"
#include "neighbours.hpp"
#include "pool_objective.hpp"
#include "sparse_objective.hpp"

namespace idistill::selection {
namespace {

constexpr std::int64_t most_exact = 50000;  // samples of the pool
constexpr double gigabyte = 1e9;
constexpr double candidates_at_once = 1024.0;  // whose factors are read together

/// What can be selected: usable, and not held. Throws Error(usage) where that is too little for the budget.
struct Candidates {
    std::vector<std::uint8_t> marks;  ///< (pool rows)
    std::vector<std::int64_t> rows;   ///< ascending
    Limits limits;

    Candidates(const Request& request, std::vector<std::uint8_t> usable, const std::vector<std::int64_t>& held)
        : marks(std::move(usable)), limits(limits_of(request)) {
        for (const auto row : held) marks[static_cast<std::size_t>(row)] = 0;
        std::vector<std::int64_t> of_source(limits.per_source.size(), 0);
        for (std::size_t row = 0; row < marks.size(); ++row) {
            if (marks[row] == 0) continue;
            rows.push_back(static_cast<std::int64_t>(row));
            ++of_source[static_cast<std::size_t>(request.source[row])];
        }
        limits.samples = samples_to_pick(request, of_source, limits);
    }
};

std::vector<Figure> figures_of(const SubsetReport& report) {
    return {{"selection_objective", report.objective},
            {"selection_bound", report.bound},
            {"selection_gains", report.gains},
            {"selection_without_gain", report.without_gain}};
}

std::string report_of(const Subset& subset, Greedy how) {
    const auto& report = subset.report;
    const auto picks = static_cast<double>(std::max<std::size_t>(1, subset.rows.size()));
    auto text = fmt::format(
        "facility location: objective {:.6g}, {:.6g} a pick; no selection within the limits has more than "
        "{:.6g}{}, "
        "of which this is {:.2f} %; {} gains computed",
        report.objective, report.objective / picks, report.bound, how == Greedy::sparse ? " by nearest neighbours" : "",
        report.bound > 0.0 ? 100.0 * report.objective / report.bound : 100.0, report.gains);
    if (report.without_gain > 0)
        text += fmt::format(
            "\nwarning: {} of {} picks add nothing to the {} before them, which stand for everything already; "
            "select "
            "fewer, or compare samples by an embedding file, --similarity FILE.h5{}",
            report.without_gain, subset.rows.size(), std::ssize(subset.rows) - report.without_gain,
            how == Greedy::stochastic ? "" : ". They are those that stand for most by themselves");
    return text;
}

class FacilityLocation final : public Selector {
public:
    FacilityLocation(const options::Values& values, FacilityForm form)
        : values_(values), settings_(values.of<FacilityLocationSettings>()), form_(form) {}

    void plan(plan::Plan& plan, const SelectionShape& shape) const override {
        const auto width = by_file() ? settings_.file_width : shape.similarity;
        if (settings_.similarity == SimilarityKind::learnt && width == 0)
            throw refused("--similarity", "what --propagation network learnt", "network, but none is learnt",
                          "What is learnt belongs to its run: select there, or give an embedding file, or --similarity "
                          "influence.");
        const bool by_samples = compares_samples(width > 0);
        const auto how = greedy(by_samples, shape.rows);
        const auto rows = static_cast<double>(shape.rows);
        const double numbers = by_samples ? rows : static_cast<double>(shape.columns);
        plan::Need need{.what = "similarities, for the selection", .during = {plan::select_step}};
        constexpr double queue = 32.0 + 8.0 + 1.0;
        need.per_rank = rows * queue + read_bytes(shape.rows, shape.columns);
        if (by_samples) need.per_rank += candidates_at_once * sizeof(float) * static_cast<double>(width);
        double flops = 2.0 * rows * numbers;
        if (by_samples) flops *= static_cast<double>(width);
        if (how == Greedy::sparse) {
            need.over_ranks = rows * neighbour_bytes(width, settings_.neighbours);
            need.per_rank += rows * 3.0 * sizeof(std::int64_t);
            need.remedy = "fewer --neighbours";
            flops *= std::min(1.0, (1.0 + static_cast<double>(cells_searched)) / std::sqrt(rows));
        } else {
            const double all = rows * numbers * sizeof(KeptSimilarity), kept = kept_bytes();
            if (by_samples) {
                need.over_ranks = rows * static_cast<double>(width) * sizeof(float);
                need.per_rank += being_kept_bytes(shape.rows);
            }
            (all < kept ? need.over_ranks : need.per_rank) += std::min(all, kept);
            need.remedy = "less --memory";
            if (how == Greedy::stochastic) flops *= std::log(100.0);
        }
        plan.needs.push_back(std::move(need));
        plan.notes.push_back(fmt::format("selection of {} represented {}: {:.2g} FLOPs a pass, {:.0f} s on one core",
                                         by_samples ? shape.rows : shape.columns, by_samples ? "samples" : "columns",
                                         flops, flops / plan::assumed_flops_per_second));
    }

    void open(comm::Communicator& comm, const PoolFacts& pool, const data::ReadIds& read_ids) override {
        if (by_file()) file_.emplace(settings_.similarity_file).match(comm, read_ids, pool.eligible);
        if (form_ != FacilityForm::conditional_gain) return;
        held_ = find_held(comm, settings_.held, pool.rows(), read_ids, file_ ? &*file_ : nullptr);
        say(comm, fmt::format("held: {} samples, {} of them in the pool, which are not selected again",
                              file_ ? held_.file_rows.size() : held_.pool_rows.size(), held_.pool_rows.size()));
        // What is too much for what is not held is refused now, not when everything is computed.
        Candidates(request(pool), {pool.eligible.begin(), pool.eligible.end()}, held_.pool_rows);
    }

    [[nodiscard]] Request request(const PoolFacts& pool) const override { return request_of(values_, pool); }
    [[nodiscard]] Request refinable(const PoolFacts& pool, std::int64_t /*budget*/) const override {
        return request(pool);
    }

    [[nodiscard]] Selection choose(comm::Communicator& comm, const InfluenceRows& influence, const PoolFacts& pool,
                                   const Request& request) const override {
        check_budget(request.budget);
        std::vector<std::uint8_t> usable(request.eligible.begin(), request.eligible.end());
        const ScaledInfluence scaled(comm, influence, usable);
        std::unique_ptr<Similarity> of_file;
        if (by_file()) of_file = file_similarity();
        const auto* similarity = compares_samples(influence.similarity != nullptr)
                                     ? (of_file ? of_file.get() : influence.similarity)
                                     : nullptr;
        std::optional<RepresentedSamples> samples;
        if (similarity != nullptr)
            samples.emplace(comm, *similarity, usable, cover_limits(comm, scaled, usable, *similarity));
        const auto how = greedy(similarity != nullptr, pool.rows());
        const Candidates candidates(request, usable, held_.pool_rows);

        std::unique_ptr<Objective> objective;
        if (!samples) {
            objective = column_objective(comm, scaled, pool.rows(),
                                         covered_by(comm, scaled, usable, held_.pool_rows, settings_.held_weight),
                                         for_targets() ? settings_.target_weight : 0.0, kept_bytes());
        } else if (how == Greedy::sparse) {
            auto neighbours =
                find_neighbours(comm, *similarity, *samples, candidates.marks, settings_.neighbours, request.seed);
            objective = sparse_objective(comm, std::move(*samples), std::move(neighbours));
        } else {
            objective = pool_objective(comm, *similarity, std::move(*samples), kept_bytes());
        }
        const auto subset =
            choose_greedily(comm, *objective, candidates.rows, request, candidates.limits, how == Greedy::stochastic);
        if (subset.rows.empty() && !request.budget.at_most) throw no_room_for_first(candidates.limits);
        Selection selection;
        selection.figures = figures_of(subset.report);
        selection.report = report_of(subset, how);
        for (const auto row : subset.rows) {
            selection.picks.push_back({row, -1});
            selection.tokens += request.tokens[static_cast<std::size_t>(row)];
        }
        return selection;
    }

private:
    static Error refused(const std::string& option, const std::string& expected, const std::string& found,
                         const std::string& remedy) {
        return {ExitCode::usage, {option, {}, expected, found, remedy}};
    }

    [[nodiscard]] bool for_targets() const { return form_ == FacilityForm::mutual_information; }
    [[nodiscard]] double kept_bytes() const { return settings_.memory_gb * gigabyte; }
    [[nodiscard]] bool by_file() const { return settings_.similarity == SimilarityKind::file; }

    /// Whether samples of the pool are what is represented. `learnt`: a similarity of samples was.
    [[nodiscard]] bool compares_samples(bool learnt) const {
        if (settings_.similarity == SimilarityKind::automatic) return learnt && !for_targets();
        return settings_.similarity != SimilarityKind::influence;
    }

    [[nodiscard]] Greedy greedy(bool by_samples, std::int64_t rows) const {
        if (settings_.greedy == Greedy::sparse && !by_samples)
            throw refused("--greedy", "exact or stochastic for columns of influence", "sparse",
                          "Compare samples by an embedding file, --similarity FILE.h5.");
        if (settings_.greedy != Greedy::automatic) return settings_.greedy;
        return by_samples && rows > most_exact ? Greedy::sparse : Greedy::exact;
    }

    [[nodiscard]] std::unique_ptr<Similarity> file_similarity() const {
        return cosine_similarity(file_->width(), [this](std::span<const std::int64_t> rows, std::span<float> out) {
            file_->read(rows, out);
        });
    }

    /// What is held covers from the start; influence limits how far a sample is covered for the targets.
    [[nodiscard]] CoverLimits cover_limits(const comm::Communicator& comm, const ScaledInfluence& scaled,
                                           std::span<const std::uint8_t> usable, const Similarity& similarity) const {
        CoverLimits limits;
        limits.held_weight = settings_.held_weight;
        if (form_ == FacilityForm::conditional_gain) limits.held = held_factors(similarity);
        if (for_targets()) {
            limits.most = scaled.largest(CoverBlocks(std::ssize(usable)).of_rank(comm), usable);
            for (float& most : limits.most)
                most = similarity.none() + static_cast<float>(settings_.target_weight * static_cast<double>(most)) *
                                               (similarity.full() - similarity.none());
        }
        return limits;
    }

    /// Those that are finite.
    [[nodiscard]] std::vector<float> held_factors(const Similarity& similarity) const {
        const auto& rows = file_ ? held_.file_rows : held_.pool_rows;
        const auto width = static_cast<std::size_t>(similarity.width());
        std::vector<float> factors(rows.size() * width);
        if (file_) {
            cosine_similarity(file_->width(), [this](std::span<const std::int64_t> places, std::span<float> out) {
                file_->read_at(places, out);
            })->read(rows, factors);
        } else {
            similarity.read(rows, factors);
        }
        std::size_t kept = 0;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const auto own = std::span(factors).subspan(i * width, width);
            if (!all_finite(own)) continue;
            std::copy(own.begin(), own.end(), factors.begin() + static_cast<std::ptrdiff_t>(kept++ * width));
        }
        factors.resize(kept * width);
        return factors;
    }

    options::Values values_;
    FacilityLocationSettings settings_;
    FacilityForm form_;
    std::optional<data::EmbeddingFile> file_;  ///< once it is matched
    Held held_;
};

}  // namespace

std::vector<std::string> subset_figures() { return names_of(figures_of({})); }

template <FacilityForm form>
std::unique_ptr<Selector> make_facility_location(const options::Values& values) {
    return std::make_unique<FacilityLocation>(values, form);
}

template std::unique_ptr<Selector> make_facility_location<FacilityForm::plain>(const options::Values&);
template std::unique_ptr<Selector> make_facility_location<FacilityForm::mutual_information>(const options::Values&);
template std::unique_ptr<Selector> make_facility_location<FacilityForm::conditional_gain>(const options::Values&);

}  // namespace idistill::selection
