#include "plan_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "datasets.hpp"
#include "idistill/base/error.hpp"
#include "idistill/base/seeded_permutation.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/propagation/options.hpp"
#include "idistill/propagation/settings.hpp"
#include "idistill/selection/budget.hpp"
#include "idistill/selection/members.hpp"
#include "rated_pool.hpp"

namespace idistill::stages {
namespace {

std::optional<plan::Gpu> planned_gpu(const options::RunSettings& run) {
    if (run.device != options::DeviceKind::cuda) return {};
    return plan::Gpu{run.gpu.name, run.gpu.bytes, run.gpu.free_bytes, run.gpu.flops_per_second,
                     model::number_bytes(run)};
}

/// Adds what plans of a run and of `embed` share: the usable rows, the GPU, the index of the pool, and the weights.
void plan_common(model::Planner& planner, bool reads_weights) {
    auto& plan = planner.plan;
    planner.usable.add_to(plan.decisions);
    plan.gpu = planned_gpu(planner.run);
    const auto rows = static_cast<double>(planner.usable.pool_rows);
    // offsets, four int32 of the index, eligible, planned cost while units are cut
    plan.needs.push_back({.what = "index of the pool", .per_rank = rows * (8.0 + 16.0 + 1.0 + 8.0)});
    if (!reads_weights) return;
    plan.needs.push_back(
        model::need_of_weights(planner, "weights", ", one copy, in /dev/shm", model::weight_bytes(planner.model)));
    if (plan.gpu)  // in fp32, and as it goes to the GPU
        plan.needs.push_back(
            {.what = "a weight while it is read",
             .per_rank = (model::fp32_bytes + plan.gpu->number_bytes) * model::largest_weight(planner.model),
             .during = {plan::load_step}});
}

void choose_landmarks(ExactPlan& exact, const propagation::PropagationSettings& settings,
                      const plan::UsableRows& usable, std::uint64_t seed) {
    const auto most = settings.landmarks_auto ? propagation::most_auto_landmarks : propagation::default_landmarks;
    auto wanted = settings.landmarks_percent
                      ? selection::selected_count(*settings.landmarks_percent, usable.eligible_rows)
                      : settings.landmarks.value_or(std::min(most, usable.eligible_rows));
    if (settings.landmarks_auto) {
        wanted = std::min(wanted, usable.eligible_rows);
        for (auto count = propagation::first_auto_landmarks; count < wanted; count *= 2)
            exact.landmark_counts.push_back(count);
    }
    exact.landmark_counts.push_back(wanted);
    if (wanted > usable.eligible_rows)
        throw Error(ExitCode::usage,
                    {"--landmarks",
                     {},
                     "at most " + std::to_string(usable.eligible_rows) + ", the eligible samples of the pool",
                     std::to_string(wanted),
                     "Give fewer --landmarks, or compute every sample exactly with --propagation none."});
    exact.landmarks = first_of_permutation(usable.eligible, seed, "landmarks", wanted);
}

/// Samples of the budget; of one in tokens, what it buys at the mean length of the eligible samples.
std::int64_t budget_samples(const selection::BudgetSettings& budget, const plan::UsableRows& usable,
                            const data::CorpusIndex& pool) {
    if (budget.percent) return selection::selected_count(*budget.percent, usable.pool_rows);
    if (budget.samples) return *budget.samples;
    double tokens = 0.0;
    for (std::int64_t row = 0; row < usable.pool_rows; ++row)
        if (usable.is_eligible(row)) tokens += static_cast<double>(pool.tokens[static_cast<std::size_t>(row)]);
    const double bought = std::min(1.0, static_cast<double>(budget.tokens.value_or(1)) / tokens) *
                          static_cast<double>(usable.eligible_rows);
    return selection::rounded(bought, 1);
}

/// Planned cost of rows of the pool; 0 of those that are not eligible.
template <class Flops>
std::vector<double> pool_flops(const model::Planner& planner, Flops flops_of) {
    std::vector<double> flops(static_cast<std::size_t>(planner.usable.pool_rows), 0.0);
    for (std::int64_t row = 0; row < planner.usable.pool_rows; ++row)
        if (planner.usable.is_eligible(row)) flops[static_cast<std::size_t>(row)] = flops_of(row);
    return flops;
}

/// A stage over all rows of the pool.
plan::Stage pool_stage(const model::Planner& planner, const char* title, std::vector<plan::Column> columns,
                       const std::vector<double>& flops, std::int64_t unit_rows = plan::unit_rows) {
    return {
        .name = state::pool,
        .title = title,
        .columns = std::move(columns),
        .units = plan::with_tokens(data::cut_units(flops, planner.run.unit_flops, unit_rows), [&](std::int64_t row) {
            return planner.pool.tokens[static_cast<std::size_t>(row)];
        })};
}

/// The largest micro-batch of a stage: `rows` of a unit, and the length of a row of the pool.
template <class Rows, class LengthOf>
plan::Batch largest_batch(const model::Planner& planner, const char* stage, Rows rows, LengthOf length) {
    return plan::largest_batch(planner.plan.stage(stage).units, planner.run.batch_tokens,
                               [&](const data::WorkUnit& unit) {
                                   std::vector<plan::Length> lengths;
                                   for (const auto row : rows(unit)) lengths.push_back(length(planner.pool, row));
                                   return lengths;
                               });
}

/// What a unit of the stages that compute or propagate rows of the pool is cut by, and what the state keeps of it.
class PoolStages {
public:
    PoolStages(const RunPlan& inputs, model::Planner& planner) : inputs_(inputs), planner_(planner) {}

    [[nodiscard]] plan::Stage landmarks() const {
        auto columns = layout_.state_columns();
        columns.push_back({state::embedding, inputs_.propagation->width()});
        std::vector<double> flops;
        for (const auto row : inputs_.exact.landmarks) {
            const auto i = static_cast<std::size_t>(row);
            flops.push_back(exact_flops(row) + inputs_.propagation->feature_flops(pool_.tokens[i], pool_.labels[i]));
        }
        return {
            .name = state::landmarks,
            .title = "label landmarks",
            .columns = std::move(columns),
            .units = plan::with_tokens(
                data::cut_units(flops, unit_flops_, plan::unit_rows, inputs_.exact.landmark_counts),
                [&](std::int64_t place) { return tokens(inputs_.exact.landmarks[static_cast<std::size_t>(place)]); })};
    }

    [[nodiscard]] plan::Stage whole_pool() const {
        const bool exact = inputs_.propagation == nullptr;
        // Features and columns of a unit take at most 64 MiB: those of a file cost hardly a FLOP.
        const auto factors = factor_width(inputs_);
        auto columns = layout_.state_columns();
        if (factors > 0) columns.push_back({state::factor, factors});
        const auto row_bytes =
            std::int64_t{sizeof(float)} * ((exact ? 0 : inputs_.propagation->width()) + factors + layout_.products());
        const auto rows = std::clamp<std::int64_t>((std::int64_t{64} << 20) / row_bytes, 1, plan::unit_rows);
        const auto flops = pool_flops(planner_, [&](std::int64_t row) {
            const auto [tokens, labels] = model::whole_length(pool_, row);
            return exact ? exact_flops(row) : inputs_.propagation->prediction_flops(tokens, labels);
        });
        return pool_stage(planner_, exact ? "exact influence" : "propagate", std::move(columns), flops, rows);
    }

    /// Over as many rows as can be refined, which are not known yet: equal counts, of the pool's mean cost together at
    /// most --unit-flops. Fewer rows leave the last units without any.
    [[nodiscard]] plan::Stage refined(std::optional<double> factor) const {
        const auto each = pool_flops(planner_, [&](std::int64_t row) { return exact_flops(row); });
        const double flops = std::accumulate(each.begin(), each.end(), 0.0);
        const auto eligible = usable_.eligible_rows;
        const auto rows = std::min(eligible - inputs_.exact.landmark_counts.front(),
                                   shortlist_size(inputs_, factor.value_or(refine_factors.back())));
        const std::vector<double> equal(static_cast<std::size_t>(rows), flops / static_cast<double>(eligible));
        return {.name = state::refine,
                .title = "refine",
                .columns = layout_.state_columns(),
                .units = data::cut_units(equal, unit_flops_, plan::unit_rows),
                .at_most = true};
    }

    /// What the stages hold of their largest units.
    void add_passes() const {
        if (inputs_.propagation) {
            const auto rows = [this](const data::WorkUnit& unit) { return inputs_.exact.landmarks_in(unit.rows); };
            const auto of_labels = largest_batch(planner_, state::landmarks, rows, model::used_length);
            const auto of_features = largest_batch(planner_, state::landmarks, rows, model::whole_length);
            planner_.plan.add_pass(
                state::landmarks,
                plan::larger(inputs_.influence->pass_bytes(of_labels), inputs_.propagation->pass_bytes(of_features)),
                inputs_.influence->unit_bytes(of_labels) + inputs_.propagation->unit_bytes(of_features));
        }
        const auto eligible = [this](const data::WorkUnit& unit) { return plan::eligible_in(usable_, unit.rows); };
        if (inputs_.propagation) {
            const auto batch = largest_batch(planner_, state::pool, eligible, model::whole_length);
            planner_.plan.add_pass(state::pool, inputs_.propagation->pass_bytes(batch),
                                   inputs_.propagation->unit_bytes(batch));
        } else {
            add_exact_pass(state::pool, largest_batch(planner_, state::pool, eligible, model::used_length));
        }
        if (const auto* stage = planner_.plan.find(state::refine)) {
            std::int64_t rows = 0;
            for (const auto& unit : stage->units) rows = std::max(rows, unit.rows.count);
            add_exact_pass(state::refine, plan::any_batch(rows, planner_.run.batch_tokens, usable_.longest));
        }
    }

private:
    void add_exact_pass(const char* stage, const plan::Batch& batch) const {
        planner_.plan.add_pass(stage, inputs_.influence->pass_bytes(batch), inputs_.influence->unit_bytes(batch));
    }
    [[nodiscard]] double exact_flops(std::int64_t row) const { return inputs_.influence->flops(pool_, row); }
    [[nodiscard]] std::int64_t tokens(std::int64_t row) const { return pool_.tokens[static_cast<std::size_t>(row)]; }

    const RunPlan& inputs_;
    model::Planner& planner_;
    const influence::Layout& layout_ = inputs_.influence->layout();
    const data::CorpusIndex& pool_ = planner_.pool;
    const plan::UsableRows& usable_ = planner_.usable;
    const double unit_flops_ = planner_.run.unit_flops;
};

void plan_result(const options::Values& values, const model::Planner& planner, const RunPlan& run) {
    const auto& layout = run.influence->layout();
    const auto rows = run.usable.pool_rows;
    const ResultShape shape{values, run, planner.pool, planner.targets, layout.columns};
    pool_datasets(shape).plan(planner.plan);
    datasets_beside(shape).plan(planner.plan);
    weight_datasets(rows).plan(planner.plan);
    const auto samples = run.selector->leaves_number_open()
                             ? run.usable.eligible_rows
                             : budget_samples(values.of<selection::BudgetSettings>(), run.usable, planner.pool);
    selected_datasets(samples, planner.pool.longest_id).plan(planner.plan);
    // A block of rows as read, as written, its scores and what stands beside.
    const auto block = std::min(rows, rows_of_block(layout.products()));
    planner.plan.needs.push_back(
        {.what = "rows on their way into the result",
         .per_rank = model::fp32_bytes * static_cast<double>(block * (2 * layout.fitted() + run.usable.tasks + 3)),
         .during = {plan::write_step}});
}

void note_samples(plan::Plan& plan, const RunPlan& inputs, const propagation::PropagationSettings& settings) {
    const auto& usable = inputs.usable;
    std::vector<std::string> notes{fmt::format("pool {} samples, targets {} samples in {} task{}, {} influence columns",
                                               usable.pool_rows, usable.target_rows.size(), usable.tasks,
                                               usable.tasks == 1 ? "" : "s", inputs.influence->layout().columns)};
    if (!inputs.exact.landmarks.empty()) {
        const bool all =
            settings.landmarks_left_open() && std::ssize(inputs.exact.landmarks) < propagation::default_landmarks;
        notes.push_back(fmt::format("landmarks {}{}", inputs.exact.landmarks.size(),
                                    settings.landmarks_auto ? " at most (auto)"
                                    : all                   ? " (all eligible samples)"
                                                            : ""));
    }
    notes.push_back(fmt::format("longest sample {} tokens", usable.longest));
    for (const auto& [what, rows] :
         {std::pair("pool", &usable.pool_quarantine), {"targets", &usable.target_quarantine}})
        if (!rows->empty()) notes.push_back(fmt::format("{} quarantined: {}", what, plan::counted(*rows)));
    plan.notes.insert(plan.notes.begin(), notes.begin(), notes.end());
}

std::vector<plan::TaskFile> task_files(const options::Values& values) {
    std::vector<plan::TaskFile> tasks;
    for (const auto& target : values.of<options::InputSettings>().targets) tasks.push_back({target.name, target.path});
    return tasks;
}

/// Rows of the pool that a run starts from; with targets in files theirs as well.
plan::UsableRows usable_of(const options::Values& values, const plan::CorpusShape& pool,
                           const plan::CorpusShape& targets) {
    if (influence::target_samples(values) == influence::TargetSamples::files)
        return plan::usable_rows(pool, targets, task_files(values));
    auto usable = plan::usable_pool(pool);
    usable.task_names = influence::task_names(values);
    usable.tasks = std::ssize(usable.task_names);
    return usable;
}

/// The labelled samples are the targets, in their order; without landmarks every sample of the pool is. Throws
/// Error(usage) where their number is left open.
void target_landmarks(plan::UsableRows& usable, const ExactPlan& exact, bool number_open) {
    if (number_open)
        throw Error(ExitCode::usage, {"--landmarks",
                                      {},
                                      "a number or a share, as the labelled samples are the targets too",
                                      "auto",
                                      "Give --landmarks N or --labelled P%, or targets in files."});
    usable.target_rows = exact.landmarks.empty() ? plan::eligible_in(usable, {0, usable.pool_rows}) : exact.landmarks;
    usable.target_task.assign(usable.target_rows.size(), 0);
}

}  // namespace

std::int64_t factor_width(const RunPlan& run) { return run.propagation ? run.propagation->factor_width() : 0; }

bool reads_weights(const RunPlan& run) {
    return run.influence->reads_weights() || (run.propagation && run.propagation->reads_weights());
}

std::int64_t shortlist_size(const RunPlan& inputs, double factor) {
    return selection::rounded(factor * static_cast<double>(inputs.exact.refine_budget), 0, inputs.usable.pool_rows);
}

selection::PoolFacts pool_facts(const RunPlan& plan, const data::CorpusIndex& pool,
                                std::span<const std::int32_t> column_task) {
    return {.eligible = plan.usable.eligible,
            .tokens = pool.tokens,
            .source = pool.source,
            .source_names = pool.source_names,
            .column_task = column_task,
            .tasks = static_cast<std::int32_t>(plan.usable.tasks)};
}

void plan_members(const options::Values& values, const model::ModelConfig& model, const plan::CorpusShape& pool,
                  const plan::CorpusShape& targets, RunPlan& planned) {
    const auto& settings = values.of<propagation::PropagationSettings>();
    const auto& run = values.of<options::RunSettings>();
    model::Planner planner{model, pool.index, targets.index, planned.usable, run, planned.plan};
    if (planned.propagation) choose_landmarks(planned.exact, settings, planned.usable, run.seed);
    if (influence::target_samples(values) == influence::TargetSamples::landmarks)
        target_landmarks(planned.usable, planned.exact, planned.propagation && settings.landmarks_auto);
    plan_common(planner, reads_weights(planned));
    planned.influence->plan(
        planner, {.curvature_columns = planned.selector->wants_extras(), .whole_pool = planned.propagation == nullptr});
    PoolStages stages(planned, planner);
    if (planned.propagation) {
        const auto fit = std::ssize(planned.plan.stages);
        planned.propagation->plan(planner, planned.influence->layout(), planned.exact.landmark_counts);
        planned.plan.stages.insert(planned.plan.stages.begin() + fit, stages.landmarks());
    }
    planned.plan.stages.push_back(stages.whole_pool());
    if (propagation::refines(values)) {
        planned.exact.refine_budget =
            budget_samples(values.of<selection::BudgetSettings>(), planned.usable, planner.pool);
        planned.plan.stages.push_back(stages.refined(settings.refine));
    }
    stages.add_passes();
    const auto& layout = planned.influence->layout();
    planned.selector->plan(planned.plan, {planned.usable.pool_rows, layout.columns, layout.products() - layout.columns,
                                          factor_width(planned)});
    plan_result(values, planner, planned);
    note_samples(planned.plan, planned, settings);
    planned.plan.disk_remedy =
        values.of<options::InputSettings>().columns == options::ColumnKind::tasks ? "" : ", or use --columns tasks";
    planned.plan.decisions.add(planned.exact.landmarks);
    planned.plan.decisions.add(planned.exact.landmark_counts);
    planned.plan.decisions.add(planned.exact.refine_budget);
}

RunPlan plan_run(const options::Values& values, const model::ModelConfig& model, const plan::CorpusShape& pool,
                 const plan::CorpusShape& targets) {
    auto influence = influence::make_influence(values);
    const auto left = [&](plan::CorpusShape shape) {
        const auto refused = influence->refused(model, shape.index);
        shape.left_out.insert(shape.left_out.end(), refused.begin(), refused.end());
        std::ranges::stable_sort(shape.left_out, {}, &plan::Quarantined::row);
        return shape;
    };
    RunPlan run{usable_of(values, left(pool), left(targets)),
                std::move(influence),
                propagation::make_propagation(values),
                selection::make_selector(values),
                {},
                {}};
    run.selector->check(pool_facts(run, pool.index));
    plan_members(values, model, pool, targets, run);
    return run;
}

EmbeddingPlan plan_embedding(const options::Values& values, const model::ModelConfig& model,
                             const plan::CorpusShape& pool) {
    EmbeddingPlan made{plan::usable_pool(pool),
                       embedding::make_embedding(values.of<embedding::EmbeddingSettings>().embedding, values),
                       {}};
    const data::CorpusIndex no_targets;
    const auto& run = values.of<options::RunSettings>();
    model::Planner planner{model, pool.index, no_targets, made.usable, run, made.plan};
    plan_common(planner, true);
    made.embedding->plan(planner);
    const auto rows = made.usable.pool_rows, width = made.embedding->width();
    const auto flops = pool_flops(planner, [&](std::int64_t row) {
        const auto [tokens, labels] = model::whole_length(pool.index, row);
        return made.embedding->flops(tokens, labels);
    });
    made.plan.stages.push_back(pool_stage(planner, "embed", {{state::embedding, width}}, flops));
    const auto eligible = [&](const data::WorkUnit& unit) { return plan::eligible_in(made.usable, unit.rows); };
    const auto batch = largest_batch(planner, state::pool, eligible, model::whole_length);
    // Rows as computed, in their places, and on their way to the state.
    made.plan.add_pass(state::pool, made.embedding->pass_bytes(batch), 3.0 * made.embedding->unit_bytes(batch));
    embedding_datasets(rows, width, pool.index.longest_id).plan(made.plan);
    made.plan.needs.push_back(
        {.what = "rows on their way into the result",
         .per_rank = model::fp32_bytes * static_cast<double>(width * std::min(rows, rows_of_block(width))),
         .during = {plan::write_step}});
    made.plan.notes.push_back(fmt::format("pool {} samples, embedding of {} numbers", rows, width));
    made.plan.notes.push_back(fmt::format("longest sample {} tokens", made.usable.longest));
    made.plan.disk_remedy = ", or use a smaller --embedding-dim";
    return made;
}

}  // namespace idistill::stages
