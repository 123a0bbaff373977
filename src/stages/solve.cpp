// Stage 4, solve: rank 0 in fp64, for every combination of embeddings that --embedding auto allows; what it chooses is
// broadcast.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <limits>

#include "features.hpp"
#include "idistill/propagation/choice.hpp"
#include "idistill/report/error.hpp"
#include "trust_report.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

constexpr double near_best = 1.02;  // of the least leave-one-out error: --embedding auto takes the cheapest up to it

using Places = std::vector<std::size_t>;
using LandmarkFeatures = std::function<propagation::Features(const Places&)>;

template <class T>
void broadcast_vector(comm::Communicator& comm, std::vector<T>& values) {
    std::int64_t size = static_cast<std::int64_t>(values.size());
    comm.broadcast(std::span(&size, 1));
    values.resize(static_cast<std::size_t>(size));
    comm.broadcast(std::span(values));
}

void broadcast_trials(comm::Communicator& comm, std::vector<EmbeddingTrial>& trials) {
    std::vector<double> flat;
    for (const auto& t : trials) flat.insert(flat.end(), {t.cost, t.error, t.r2_within_source, t.r2, t.spearman});
    broadcast_vector(comm, flat);
    trials.clear();
    for (std::size_t i = 0; i < flat.size(); i += 5)
        trials.push_back({flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4]});
}

/// `landmarks` gives the features of the embeddings at some places.
void broadcast_propagation(comm::Communicator& comm, Propagation& result, const LandmarkFeatures& landmarks) {
    broadcast_vector(comm, result.embeddings);
    broadcast_trials(comm, result.trials);
    std::vector<double> packed = comm.is_root() ? propagation::pack(result.solution) : std::vector<double>();
    broadcast_vector(comm, packed);
    if (!comm.is_root()) result.solution = propagation::unpack(packed, landmarks(result.embeddings));
    comm.broadcast(std::span(result.leave_one_out.mutable_data_ptr<float>(),
                             static_cast<std::size_t>(result.leave_one_out.numel())));
    for (auto* values :
         {&result.trust.column_r2, &result.trust.task_r2, &result.trust.task_r2_within_source,
          &result.trust.task_spearman, &result.trust.task_r2_source_only, &result.trust.task_spearman_source_only})
        broadcast_vector(comm, *values);
}

/// Places of the landmarks whose labels and embedding are finite. Says of how many the embedding alone is not, as in a
/// file made from a pool where these samples had no labels.
Tensor usable_landmarks(const Run& run, const LandmarkLabels& landmarks) {
    const auto finite = [](const Tensor& rows) { return at::isfinite(rows).all(1); };
    const auto labelled = finite(products_of(landmarks));
    auto place = labelled.logical_and(finite(landmarks.embedding)).nonzero().view({-1});
    const auto without = labelled.sum().item<std::int64_t>() - place.numel();
    if (place.numel() == 0 && without > 0)
        throw Error(ExitCode::bad_input,
                    {"--embedding " + run.settings.embedding, "embeddings of the landmarks",
                     "at least one that is finite", fmt::format("none of {}", landmarks.place.size()),
                     "Write the file from a pool whose samples have labels, or use another --embedding."});
    if (without > 0)
        say(run.comm, fmt::format("warning: {} of {} landmarks left out: their --embedding is not finite, and neither "
                                  "may be that of other samples, which then get no influence",
                                  without, landmarks.place.size()));
    if (place.numel() == 0)
        throw Error(ExitCode::bad_input,
                    {run.settings.model, "gradients of the landmarks", "at least one that is finite and not zero",
                     fmt::format("none of {}", landmarks.place.size()),
                     "Check the model's weights and --parameters, or give more --landmarks."});
    return place;
}

/// Columns of the embeddings at these places of the plan.
Tensor columns_of(const config::Plan& plan, const Tensor& embedding, const Places& places) {
    const auto parts = embedding.split_with_sizes(plan.embedding_widths, 1);
    std::vector<Tensor> chosen;
    for (const auto place : places) chosen.push_back(parts[place]);
    return at::cat(chosen, 1);
}

propagation::KernelSettings kernel_settings(const Run& run, const Places& places) {
    const auto& settings = run.settings;
    propagation::KernelSettings kernel{.bandwidth = settings.bandwidth,
                                       .metadata = settings.metadata,
                                       .choose_bandwidth = settings.bandwidth_auto,
                                       .product = settings.kernel == "product" && places.size() > 1,
                                       .choose_product = settings.kernel == "auto"};
    for (const auto place : places) kernel.widths.push_back(run.inputs.plan.embedding_widths[place]);
    return kernel;
}

/// Mean of the values that are numbers.
double mean(const std::vector<double>& values) {
    double sum = 0.0, count = 0.0;
    for (const double value : values) {
        if (std::isnan(value)) continue;
        sum += value;
        count += 1.0;
    }
    return count > 0.0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

/// Planned FLOPs of propagating to the landmarks, which stand for the pool, over those of their exact influence.
double relative_cost(const Run& run, const std::vector<std::int64_t>& landmarks, const Places& places) {
    const auto& plan = run.inputs.plan;
    const auto& index = run.inputs.pool.index();
    const config::CostModel cost(run.inputs.model, run.settings);
    std::int64_t width = 0;
    for (const auto place : places) width += plan.embedding_widths[place];
    double flops = 0.0, exact = 0.0;
    for (const auto row : landmarks) {
        const auto i = static_cast<std::size_t>(row);
        for (const auto place : places)
            flops += cost.embedding(cost.embeddings()[place], index.tokens[i], index.labels[i]);
        flops += config::CostModel::propagation(std::ssize(landmarks), plan.stored_columns(), width);
        exact += config::exact_flops(plan, cost, run.settings, index, row);
    }
    return flops / exact;
}

/// Labels of the landmarks as they are fitted: influence, the curvature's factor, and the logarithm of the norm.
struct Fitted {
    Tensor labels;  ///< (L x C + r + 1)
    const std::vector<std::int32_t>& column_task;
    const std::vector<std::int64_t>& rows;  ///< of the pool
};

propagation::SolveResult solve_with(const Run& run, const Fitted& fitted, const LandmarkFeatures& landmarks,
                                    const Places& places) {
    return propagation::solve(landmarks(places), fitted.labels, fitted.column_task,
                              static_cast<std::int32_t>(run.settings.targets.size()), kernel_settings(run, places),
                              run.settings.damping);
}

double error_of(const propagation::SolveResult& solved) {
    for (const auto& trial : solved.kernels)
        if (propagation::is_chosen(trial, solved.solution)) return trial.best.error;
    return std::numeric_limits<double>::quiet_NaN();
}

/// Compares the candidates and gives the solution of the chosen one, which goes to `result` with the trials.
propagation::SolveResult choose(const Run& run, const Fitted& fitted, const LandmarkFeatures& landmarks,
                                Propagation& result) {
    const auto candidates = config::embedding_candidates(run.settings);
    if (candidates.size() == 1) {
        result.embeddings = candidates.front();
        return solve_with(run, fitted, landmarks, candidates.front());
    }
    std::vector<double> errors, costs;
    for (const auto& candidate : candidates) {
        const auto solved = solve_with(run, fitted, landmarks, candidate);
        result.trials.push_back({relative_cost(run, fitted.rows, candidate), error_of(solved),
                                 mean(solved.trust.task_r2_within_source), mean(solved.trust.task_r2),
                                 mean(solved.trust.task_spearman)});
        errors.push_back(result.trials.back().error);
        costs.push_back(result.trials.back().cost);
    }
    result.embeddings = candidates[propagation::cheapest_near_best(errors, costs, near_best)];
    return solve_with(run, fitted, landmarks, result.embeddings);  // again: all solutions at once are too large
}

}  // namespace

Propagation solve(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks) {
    const auto place = usable_landmarks(run, landmarks);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < place.numel(); ++i)
        rows.push_back(landmarks.rows[static_cast<std::size_t>(place[i].item<std::int64_t>())]);
    const auto embedding = landmarks.embedding.index_select(0, place);
    const LandmarkFeatures features = [&](const Places& places) {
        return features_of(run, rows, columns_of(run.inputs.plan, embedding, places));
    };
    Propagation result;
    result.leave_one_out =
        at::full({landmarks.influence.size(0), targets.columns()}, std::numeric_limits<float>::quiet_NaN());
    if (run.comm.is_root()) {
        const auto norm = landmarks.norm.index_select(0, place).unsqueeze(1);
        auto influence = products_of(landmarks).index_select(0, place);
        if (raw(run)) influence = influence / norm;
        auto solved = choose(run, {at::cat({influence, norm.log()}, 1), targets.column_task, rows}, features, result);
        auto predictions = solved.leave_one_out.narrow(1, 0, targets.columns());
        if (raw(run)) predictions = predictions * solved.leave_one_out.narrow(1, targets.products(), 1).exp();
        result.leave_one_out.index_copy_(0, place, predictions.to(torch::kFloat32));
        result.solution = std::move(solved.solution);
        result.trust = std::move(solved.trust);
        result.kernels = std::move(solved.kernels);
    }
    broadcast_propagation(run.comm, result, features);
    return result;
}

bool landmarks_worth_adding(const Run& run, const Propagation& propagation, LandmarkLabels& landmarks) {
    const auto& trust = propagation.trust;
    auto& trials = landmarks.trials;
    const double before = trials.empty() ? -std::numeric_limits<double>::infinity() : trials.back().r2;
    trials.push_back({std::ssize(landmarks.rows), mean(trust.task_r2), mean(trust.task_r2_within_source),
                      mean(trust.task_spearman)});
    const auto& now = trials.back();
    const bool all = now.landmarks == run.inputs.plan.landmark_counts.back();
    // Without a figure on either side nothing is known to be gained too little.
    const bool gained = std::isnan(now.r2) || std::isnan(before) || now.r2 - before >= config::least_landmark_gain;
    const bool add = !all && gained;
    if (run.settings.landmarks_auto)
        say(run.comm, fmt::format("{} landmarks: R2 {:.3f}, in source {:.3f}, Spearman {:.3f} by leave-one-out; {}",
                                  now.landmarks, now.r2, now.r2_within_source, now.spearman,
                                  add   ? "doubled"
                                  : all ? "as many as allowed"
                                        : fmt::format("a doubling gained less than {}", config::least_landmark_gain)));
    return add;
}

}  // namespace idistill::stages
