// Learning from all labels, on rank 0; what it learnt on its way to the others; and what predicts by it.

#include "fit.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "../sender.hpp"
#include "idistill/base/error.hpp"
#include "stages.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

/// Place among the labelled samples of the one that every column is; -1 for others, and for means of several.
std::vector<std::int64_t> labelled_of(const Tasks& tasks, const std::vector<std::int64_t>& rows) {
    std::vector<std::int64_t> labelled(tasks.targets.size(), -1);
    std::unordered_map<std::int64_t, std::int64_t> place_of;
    for (std::size_t place = 0; place < rows.size(); ++place) place_of[rows[place]] = static_cast<std::int64_t>(place);
    for (std::size_t column = 0; column < labelled.size(); ++column) {
        if (tasks.targets[column].size() != 1) continue;
        const auto found = place_of.find(tasks.targets[column].front());
        if (found != place_of.end()) labelled[column] = found->second;
    }
    return labelled;
}

}  // namespace

Networks::Networks(const NetworkShapes& shapes, const NetworkFit& fit, const Tensor& columns) {
    if (fit.pairs.epoch > 0) {
        pairs_.emplace(shapes.pairs, fit.pairs.parameters, fit.pairs.scaling);
        right_ = pairs_->right(columns);
    }
    if (fit.samples.epoch > 0) samples_.emplace(shapes.samples, fit.samples.parameters, fit.samples.scaling);
}

Tensor Networks::fitted(const Tensor& embedding) const {
    std::vector<Tensor> parts;
    if (pairs_) parts.push_back(pairs_->scores(pairs_->left(embedding), right_));
    if (samples_) parts.push_back(samples_->of_samples(embedding));
    return parts.size() == 1 ? parts[0] : at::cat(parts, 1);
}

NetworkFit fit_networks(const work::Work& work, const FitPlan& plan, const Landmarks& landmarks, const Tensor& place,
                        const Tasks& tasks, const data::CorpusIndex& pool, bool targets_in_pool) {
    const auto start = std::chrono::steady_clock::now();
    const auto columns = std::ssize(tasks.of_column);
    std::vector<std::int64_t> rows;
    std::vector<std::int32_t> source;
    for (std::int64_t i = 0; i < place.numel(); ++i) {
        rows.push_back(landmarks.rows[static_cast<std::size_t>(place[i].item<std::int64_t>())]);
        source.push_back(pool.source[static_cast<std::size_t>(rows.back())]);
    }
    const auto embedding = landmarks.features.index_select(0, place);
    const auto fitted = fitted_labels(landmarks.labels, place, plan.layout);
    const bool has_pairs = plan.shapes.pairs.outputs > 0;
    const auto labelled = has_pairs && targets_in_pool
                              ? labelled_of(tasks, rows)
                              : std::vector<std::int64_t>(static_cast<std::size_t>(columns), -1);
    const bool by_target = std::any_of(tasks.targets.begin(), tasks.targets.end(),
                                       [](const auto& targets) { return targets.size() == 1; });
    const auto split = split_samples(std::ssize(rows), labelled, has_pairs && by_target, plan.seed);
    NetworkFit fit;
    fit.labelled = std::ssize(split.rows);
    fit.targets = std::ssize(split.columns);
    fit.held_samples = std::ssize(split.held_rows);
    fit.held_targets = split.holds_columns ? std::ssize(split.held_columns) : 0;
    const auto labels = fitted.narrow(1, 0, columns).contiguous();
    if (has_pairs) {
        if (pairs_of(split.rows, split.columns, labelled).empty())
            throw Error(ExitCode::bad_input,
                        {"landmarks", "pairs of two labelled samples", "at least one", "none",
                         "Give more --landmarks: those with finite influence are the targets as well."});
        fit.pairs =
            learn(work, pair_stage, plan.number, {plan.shapes.pairs, embedding, plan.columns, labels, split, labelled},
                  plan.settings, plan.seed);
    }
    if (plan.shapes.samples.outputs > 0) {
        const auto own = has_pairs ? fitted.narrow(1, columns, fitted.size(1) - columns).contiguous() : fitted;
        auto alone = split;
        alone.columns = alone.held_columns = {0};
        fit.samples = learn(work, sample_stage, plan.number, {plan.shapes.samples, embedding, {}, own, alone, {-1}},
                            plan.settings, plan.seed);
    }
    fit.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

    const auto held = at::tensor(split.held_rows, at::TensorOptions().dtype(torch::kInt64));
    const auto predicted = Networks(plan.shapes, fit, plan.columns).fitted(embedding.index_select(0, held));
    const auto predicted_columns = predicted.narrow(1, 0, columns).contiguous();
    const Judged judged{labels, embedding, plan.columns, predicted_columns, split, labelled};
    fit.agreement = agreement(judged);
    fit.trust = held_out_trust(judged, tasks.of_column, static_cast<std::int32_t>(tasks.names.size()), source);
    for (std::size_t task = 0; task < tasks.names.size(); ++task)
        fit.trust.task_label_noise.push_back(tasks.label_error[task] * tasks.label_error[task] /
                                             fit.trust.task_label_variance[task]);
    fit.leave_one_out = work::unknown_rows(landmarks.count(), columns);
    fit.leave_one_out.index_copy_(0, place.index_select(0, held),
                                  from_fitted(predicted, plan.layout).products.narrow(1, 0, columns));
    return fit;
}

void broadcast(comm::Communicator& comm, NetworkFit& fit) {
    const Sender send(comm);
    for (auto* learnt : {&fit.pairs, &fit.samples}) {
        send(learnt->epoch);
        send(learnt->pairs);
        send(learnt->error);
        send(learnt->held_error);
        if (learnt->epoch == 0) continue;
        send.tensor<float>(learnt->parameters);
        send(learnt->scaling.length);
        send(learnt->scaling.gain);
        send(learnt->scaling.offset);
        send(learnt->scaling.slope);
    }
    for (auto* number : {&fit.labelled, &fit.targets, &fit.held_samples, &fit.held_targets, &fit.agreement.pairs})
        send(*number);
    for (auto* numbers : {&fit.agreement.error, &fit.agreement.r2, &fit.agreement.spearman}) send(*numbers);
    for (const auto& [name, values] : trust_datasets) send(fit.trust.*values);
    send(fit.trust.task_label_variance);
    send.tensor<float>(fit.leave_one_out);
    send(fit.seconds);
}

}  // namespace idistill::propagation
