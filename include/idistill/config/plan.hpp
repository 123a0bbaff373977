#pragma once
// Stage 1: everything that is decided before the model is loaded. A pure function of settings and sizes; no MPI, no
// LibTorch.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "idistill/config/cost_model.hpp"
#include "idistill/config/model_config.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/data/work_unit.hpp"

namespace idistill::config {

/// Most rows of a unit, however cheap they are. Its planned cost is at most --unit-flops; a single sample that costs
/// more is a unit of its own.
inline constexpr std::int64_t unit_rows = 65536;

/// The state keeps a row of all chosen parameters in pieces of at most this many numbers.
inline constexpr std::int64_t direction_piece = std::int64_t{1} << 20;

/// What --refine auto chooses from, in ascending order: the plan is for the last.
inline constexpr std::array<double, 6> refine_factors{2.0, 3.0, 4.0, 6.0, 8.0, 12.0};

enum class QuarantineReason : std::uint8_t { empty, no_labels, no_labels_after_truncation, non_finite };

/// "empty", "no label tokens", "no label tokens after truncation", "not finite": what result file and log say.
std::string to_string(QuarantineReason reason);

struct Quarantined {
    std::int64_t row = 0;
    QuarantineReason reason = QuarantineReason::empty;
    friend bool operator==(const Quarantined&, const Quarantined&) = default;
};

/// One token file of a corpus: how many rows, and the length its samples were cut to (0: they were not).
struct FileRows {
    std::int64_t rows = 0;
    std::int64_t max_length = 0;
};

/// A corpus after its scan: the files' rows one after the other.
struct CorpusShape {
    const data::CorpusIndex& index;
    std::vector<FileRows> files;
};

struct Plan {
    std::int64_t pool_rows = 0;  ///< N, quarantined rows included
    std::int64_t tasks = 0;
    std::int64_t columns = 0;               ///< of /influence: M, or tasks with --columns tasks
    std::int64_t curvature_columns = 0;     ///< r with --curvature hessian: stored behind those of /influence
    std::vector<std::int64_t> target_rows;  ///< (M) rows of the target corpus that are kept, in order
    std::vector<std::int32_t> target_task;  ///< (M) their task
    /// (R) pool rows that stand for the pool in --contrast: the first of a seeded permutation of the eligible ones, not
    /// that of the landmarks.
    std::vector<std::int64_t> contrast_rows;
    std::vector<Quarantined> pool_quarantine;
    std::vector<Quarantined> target_quarantine;
    std::vector<std::uint8_t> eligible;   ///< (N)
    std::vector<std::int64_t> landmarks;  ///< (L) pool rows, in the order of the seeded permutation; as many as can be
    /// Numbers of landmarks to solve with, ascending, until more are not worth it (--landmarks auto); otherwise L
    /// alone.
    std::vector<std::int64_t> landmark_counts;
    /// Over the places of target_rows, then contrast_rows, which count as one more task; none crosses a task.
    std::vector<data::WorkUnit> target_units;
    /// The same, with contraction: cut at an eighth of a task, so fewer than 16 a task (each leaves one row of all
    /// chosen parameters in the state).
    std::vector<data::WorkUnit> direction_units;
    /// With --curvature hessian: over target_rows, cut at a 64th of a product, so fewer than 128 (each one's part goes
    /// to all ranks).
    std::vector<data::WorkUnit> curvature_units;
    std::vector<data::WorkUnit> landmark_units;  ///< over landmarks; none crosses one of landmark_counts
    std::vector<data::WorkUnit> pool_units;      ///< over pool rows; quarantined rows cost nothing
    /// Of --refine: samples of the budget; a token budget counts as what it buys at the mean length of the eligible
    /// samples. 0 when nothing is refined.
    std::int64_t refine_budget = 0;
    /// Over as many rows as can be refined, which are not known yet: equal counts, of the pool's mean cost together at
    /// most --unit-flops. Fewer rows leave the last units without any.
    std::vector<data::WorkUnit> refine_units;
    std::int64_t step_products = 0;  ///< 1 where targets are multiplied with the optimizer's constant step b, else 0
    std::vector<std::int64_t> embedding_widths;  ///< of every embedding of a sample; none without propagation
    std::int64_t embedding_width = 0;            ///< their sum, e
    SketchShape sketch;                     ///< k and side; width 0 where no sketch is made (exact influence on tasks)
    std::int64_t direction_parameters = 0;  ///< entries of the chosen layers, with contraction or --curvature hessian
    std::int64_t longest = 0;               ///< tokens of the longest eligible sample or target
    std::int64_t most_labels = 0;           ///< most label tokens in one
    std::int64_t longest_id = 0;            ///< bytes of the pool's longest id
    std::uint64_t hash = 0;                 ///< over all of the above; must agree on all ranks

    /// Numbers of a row of influence in the state.
    [[nodiscard]] std::int64_t stored_columns() const { return columns + curvature_columns; }
    /// Places of target_units: targets, then the samples of --contrast.
    [[nodiscard]] std::int64_t labelled() const {
        return static_cast<std::int64_t>(target_rows.size() + contrast_rows.size());
    }
    /// Task of a place; `tasks` for the samples of --contrast.
    [[nodiscard]] std::int64_t task_of(std::int64_t place) const {
        const auto i = static_cast<std::size_t>(place);
        return i < target_task.size() ? target_task[i] : tasks;
    }
};

/// True when the best predicted samples get exact influence before selection (--refine); without propagation nothing is
/// predicted, and the random rule does not look at influence.
bool refines(const Settings& settings);

/// Samples of a shortlist: `factor` times the plan's refine_budget, rounded, at most the pool.
std::int64_t shortlist_size(const Plan& plan, double factor);

/// Exact influence of a pool row on all columns: planned FLOPs.
double exact_flops(const Plan& plan, const CostModel& cost, const Settings& settings, const data::CorpusIndex& pool,
                   std::int64_t row);

/// `percent` of `rows`, rounded half up, at least 1: what --select P% asks for.
std::int64_t selected_count(double percent, std::int64_t rows);

/// Most samples of each capped source, by its place in `source_names`. Throws Error(usage) for a cap on another name.
std::map<std::int32_t, std::int64_t> source_caps(const Settings& settings,
                                                 const std::vector<std::string>& source_names);

/// The same for --source-share: most of all weight, by source.
std::map<std::int32_t, double> source_shares(const Settings& settings, const std::vector<std::string>& source_names);

/// `targets` has one file per target of the settings, in their order. Landmarks are the first L of a seeded permutation
/// of the eligible rows (a larger L only appends). With propagation "none" there are none, and pool units are costed by
/// the gradient pass. Throws Error(usage) for settings that these inputs cannot meet (more landmarks asked for than
/// eligible samples, more blocks than the model has, a sketch that does not fit the layers, a budget above what is
/// eligible, a cap on an unknown source) and Error(bad_input) for a pool or a task without a usable sample.
Plan make_plan(const Settings& settings, const ModelConfig& model, const CorpusShape& pool, const CorpusShape& targets);

/// The plan of `embed`: pool rows, quarantine and units alone, costed by the embedding.
Plan make_embedding_plan(const Settings& settings, const ModelConfig& model, const CorpusShape& pool);

}  // namespace idistill::config
