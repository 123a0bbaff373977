#include "plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "idistill/options/run_settings.hpp"

namespace idistill::influence {
namespace {

using model::fp32_bytes;

double real(std::int64_t value) { return static_cast<double>(value); }

/// What is read of a target behind an example: from the part that follows it up to the last predictor.
plan::Length following_length(const data::CorpusIndex& index, std::int64_t row) {
    const auto [tokens, labels] = model::used_length(index, row);
    return {tokens - index.joint.first[static_cast<std::size_t>(row)], labels};
}

/// Keys and values of `tokens`, in every block.
double kept_bytes(const model::ModelConfig& model, std::int64_t tokens) {
    return fp32_bytes * 2.0 * real(model.blocks) * real(model.kv_heads * model.head_dim) * real(tokens);
}

/// Held by a forward pass behind `before` tokens: states of a block, keys and values and the scores of a chunk of
/// queries, positions, a chunk of logits.
plan::PassBytes forward_bytes(const model::ModelConfig& model, const plan::Batch& batch, std::int64_t before) {
    constexpr double queries_at_once = 64.0, whole_numbers = 8.0;
    const double keys = real(before + batch.longest), width = real(model.head_dim);
    const double attention = keys * (2.0 * real(model.kv_heads) * width + queries_at_once * real(model.heads)) +
                             3.0 * real(batch.longest) * real(model.heads) * width;
    const double rows = real(std::max(model::logits_rows, model::logits_bytes / (4 * model.vocabulary)));
    const double head =
        std::min(rows, real(batch.labels)) * real(model.vocabulary) + 2.0 * real(batch.labels * model.hidden);
    return {model::state_activation_bytes(model, 0, batch.tokens) + fp32_bytes * attention,
            fp32_bytes * (head + 2.0 * real(batch.tokens) * width) + whole_numbers * 3.0 * real(batch.tokens)};
}

plan::Batch largest(const std::vector<plan::Length>& lengths, std::int64_t batch_tokens) {
    const data::WorkUnit all{{0, std::ssize(lengths)}, 0.0, 0};
    return plan::largest_batch(std::span(&all, 1), batch_tokens, [&](const data::WorkUnit&) { return lengths; });
}

void plan_alone(const DeliftPlan& plan, const model::PassCost& cost, model::Planner& planner) {
    const auto length = [&](std::int64_t place) {
        return model::used_length(planner.targets, plan.target_rows[static_cast<std::size_t>(place)]);
    };
    std::vector<double> flops;
    for (std::int64_t place = 0; place < std::ssize(plan.target_rows); ++place) {
        const auto labels = real(length(place).labels);
        flops.push_back(cost.forward(real(length(place).tokens), 0.0, labels, labels));
    }
    planner.plan.stages.push_back(
        {.name = delift_state::targets,
         .title = "read targets alone",
         .columns = {{delift_state::distance, 1}},
         .units = plan::with_tokens(data::cut_units(flops, planner.run.unit_flops, plan::unit_rows),
                                    [&](std::int64_t place) { return length(place).tokens; })});
    const auto batch = plan::largest_batch(planner.plan.stages.back().units, planner.run.batch_tokens,
                                           [&](const data::WorkUnit& unit) {
                                               std::vector<plan::Length> lengths;
                                               for (auto place = unit.rows.first; place < unit.rows.end(); ++place)
                                                   lengths.push_back(length(place));
                                               return lengths;
                                           });
    planner.plan.add_pass(delift_state::targets, forward_bytes(planner.model, batch, 0), fp32_bytes * real(batch.rows));
    planner.earlier.emplace_back(delift_state::targets);
}

}  // namespace

std::vector<plan::Quarantined> rows_not_joined(const DeliftSettings& settings, const model::ModelConfig& model,
                                               const data::CorpusIndex& index) {
    const auto context =
        settings.max_context > 0 ? std::min(settings.max_context, model.max_positions) : model.max_positions;
    std::vector<plan::Quarantined> found;
    for (std::int64_t row = 0; row < index.size(); ++row) {
        const auto i = static_cast<std::size_t>(row);
        if (index.labels[i] == 0) continue;  // which is why it is left out
        const auto labels_follow = index.joint.first[i] >= 0 && index.last_label[i] > index.joint.first[i];
        if (!labels_follow)
            found.push_back({row, plan::QuarantineReason::not_joined});
        else if (2 * std::max<std::int64_t>(index.joint.example[i], following_length(index, row).tokens) > context)
            found.push_back({row, plan::QuarantineReason::too_long_to_join});
    }
    return found;
}

DeliftPlan plan_delift(const options::Values& values, model::Planner& planner) {
    DeliftPlan plan;
    plan.by_task = values.of<options::InputSettings>().columns == options::ColumnKind::tasks;
    plan.target_rows = planner.usable.target_rows;
    plan.target_task = planner.usable.target_task;
    plan.task_names = planner.usable.task_names;
    plan.joint_sha256 = planner.pool.joint.sha256 + " " + planner.targets.joint.sha256;
    const model::PassCost cost(planner.model);
    plan_alone(plan, cost, planner);

    std::vector<plan::Length> following;
    double tokens = 0.0;
    for (const auto row : plan.target_rows) {
        const auto length = following.emplace_back(following_length(planner.targets, row));
        const double own = real(length.tokens), labels = real(length.labels);
        tokens += own;
        plan.flops_of_targets += cost.forward(own, 0.0, labels, labels);
        plan.flops_of_each_token += cost.forward(own, 1.0, labels, labels) - cost.forward(own, 0.0, labels, labels);
    }
    std::int64_t longest = 0;
    for (std::int64_t row = 0; row < planner.pool.size(); ++row)
        if (planner.usable.is_eligible(row))
            longest = std::max<std::int64_t>(longest, planner.pool.joint.example[static_cast<std::size_t>(row)]);
    const plan::Batch example{.rows = 1, .tokens = longest, .samples = 1, .labels = 0, .longest = longest};
    plan.pass_bytes = plan::larger(forward_bytes(planner.model, example, 0),
                                   forward_bytes(planner.model, largest(following, planner.run.batch_tokens), longest));
    plan.pass_bytes.activations += kept_bytes(planner.model, longest);

    constexpr double index_bytes = 8.0, joint_bytes = 16.0, token_bytes = 5.0;
    const bool same = &planner.pool == &planner.targets;
    const double rows = real(planner.pool.size() + (same ? 0 : planner.targets.size()));
    planner.plan.needs.push_back({.what = "how samples are joined", .per_rank = rows * (index_bytes + joint_bytes)});
    planner.plan.needs.push_back(
        {.what = "tokens of the targets", .per_rank = token_bytes * tokens, .remedy = "fewer target samples"});
    planner.plan.notes.push_back(fmt::format("each sample is the example of {} target samples, {:.0f} tokens together",
                                             plan.target_rows.size(), tokens));
    return plan;
}

double utility_flops(const DeliftPlan& plan, const model::PassCost& cost, const data::CorpusIndex& pool,
                     std::int64_t row) {
    const auto tokens = static_cast<double>(pool.joint.example[static_cast<std::size_t>(row)]);
    return cost.forward(tokens, 0.0, 0.0, 0.0) + plan.flops_of_targets + tokens * plan.flops_of_each_token;
}

}  // namespace idistill::influence
