// Stage 4, solve: rank 0 in fp64; the solution is broadcast. Stage 5, propagate: units of the pool claimed by any rank;
// embeddings live only within a unit, influence rows go to the state.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "idistill/report/error.hpp"
#include "labels.hpp"
#include "trust_report.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

propagation::Features features_of(const Run& run, const std::vector<std::int64_t>& rows, const Tensor& embedding) {
    const auto& index = run.inputs.pool.index();
    const auto count = static_cast<std::int64_t>(rows.size());
    auto source = at::empty({count}, at::TensorOptions().dtype(torch::kInt64));
    auto lengths = at::empty({count, 2}, at::TensorOptions().dtype(torch::kFloat32));
    auto* s = source.mutable_data_ptr<std::int64_t>();
    auto* l = lengths.mutable_data_ptr<float>();
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<std::size_t>(rows[i]);
        s[i] = index.source[row];
        l[2 * i] = std::log(static_cast<float>(index.tokens[row]));
        l[2 * i + 1] = std::log(static_cast<float>(index.labels[row]));
    }
    return {embedding, source, lengths};
}

template <class T>
void broadcast_vector(comm::Communicator& comm, std::vector<T>& values) {
    std::int64_t size = static_cast<std::int64_t>(values.size());
    comm.broadcast(std::span(&size, 1));
    values.resize(static_cast<std::size_t>(size));
    comm.broadcast(std::span(values));
}

void broadcast_solution(comm::Communicator& comm, Propagation& result, propagation::Features landmarks) {
    std::vector<double> packed = comm.is_root() ? propagation::pack(result.solution) : std::vector<double>();
    broadcast_vector(comm, packed);
    if (!comm.is_root()) result.solution = propagation::unpack(packed, std::move(landmarks));
    comm.broadcast(std::span(result.leave_one_out.mutable_data_ptr<float>(),
                             static_cast<std::size_t>(result.leave_one_out.numel())));
    for (auto* values :
         {&result.trust.column_r2, &result.trust.task_r2, &result.trust.task_r2_within_source,
          &result.trust.task_spearman, &result.trust.task_r2_source_only, &result.trust.task_spearman_source_only})
        broadcast_vector(comm, *values);
}

/// Places of the landmarks whose labels and embedding are finite.
Tensor usable_landmarks(const Run& run, const LandmarkLabels& landmarks) {
    const auto usable = at::isfinite(landmarks.influence).all(1).logical_and_(at::isfinite(landmarks.embedding).all(1));
    auto place = usable.nonzero().view({-1});
    if (place.numel() == 0)
        throw Error(ExitCode::bad_input,
                    {run.settings.model, "gradients of the landmarks", "at least one that is finite and not zero",
                     fmt::format("none of {}", landmarks.place.size()),
                     "Check the model's weights and --parameters, or give more --landmarks."});
    return place;
}

bool raw(const Run& run) { return run.settings.normalize == "none"; }

}  // namespace

std::vector<std::int64_t> eligible_rows(const config::Plan& plan, const data::RowRange& range) {
    std::vector<std::int64_t> rows;
    for (auto row = range.first; row < range.end(); ++row)
        if (plan.eligible[static_cast<std::size_t>(row)] != 0) rows.push_back(row);
    return rows;
}

Propagation solve(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks) {
    const auto place = usable_landmarks(run, landmarks);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < place.numel(); ++i)
        rows.push_back(run.inputs.plan.landmarks[static_cast<std::size_t>(place[i].item<std::int64_t>())]);
    const auto features = features_of(run, rows, landmarks.embedding.index_select(0, place));
    Propagation result;
    result.leave_one_out =
        at::full({landmarks.influence.size(0), targets.columns()}, std::numeric_limits<float>::quiet_NaN());
    if (run.comm.is_root()) {
        const auto norm = landmarks.norm.index_select(0, place).unsqueeze(1);
        // Raw influence is fitted per unit of gradient norm and multiplied by the norm afterwards: both propagate
        // better than their product (METHOD.md section 8).
        auto influence = landmarks.influence.index_select(0, place);
        if (raw(run)) influence = influence / norm;
        auto solved = propagation::solve(features, at::cat({influence, norm.log()}, 1), targets.column_task,
                                         static_cast<std::int32_t>(run.settings.targets.size()),
                                         {run.settings.bandwidth, run.settings.metadata, run.settings.bandwidth_auto},
                                         run.settings.damping);
        auto predictions = solved.leave_one_out.narrow(1, 0, targets.columns());
        if (raw(run)) predictions = predictions * solved.leave_one_out.narrow(1, targets.columns(), 1).exp();
        result.leave_one_out.index_copy_(0, place, predictions.to(torch::kFloat32));
        result.solution = std::move(solved.solution);
        result.trust = std::move(solved.trust);
        result.bandwidths = std::move(solved.bandwidths);
        say(run.comm, trust_report(run.settings, result));
    }
    broadcast_solution(run.comm, result, features);
    return result;
}

void propagate_to_pool(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                       const Propagation& propagation) {
    const auto& plan = run.inputs.plan;
    const propagation::Propagator propagate(propagation.solution, run.model.decoder.options().device());
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.columns}, std::numeric_limits<float>::quiet_NaN());
        const auto place_in_unit = [&](const std::vector<std::int64_t>& rows) {
            return at::tensor(rows, at::TensorOptions().dtype(torch::kInt64)) - unit.rows.first;
        };
        std::vector<std::int64_t> predicted, exact, exact_place;
        for (const auto row : eligible_rows(plan, unit.rows)) {
            if (std::binary_search(targets.unusable.begin(), targets.unusable.end(), row)) continue;
            const auto landmark = landmarks.place.find(row);
            if (landmark == landmarks.place.end()) {
                predicted.push_back(row);
            } else {
                exact.push_back(row);
                exact_place.push_back(landmark->second);
            }
        }
        if (!predicted.empty()) {
            const auto embedding =
                (*run.encoders.embedding)(run.inputs.pool.read(predicted), run.settings.batch_tokens);
            const auto values = propagate(features_of(run, predicted, embedding)).cpu();
            const auto predicted_norm = values.select(1, targets.columns()).exp();
            auto columns = values.narrow(1, 0, targets.columns());
            if (raw(run)) columns = columns * predicted_norm.unsqueeze(1);
            norm.index_copy_(0, place_in_unit(predicted), predicted_norm);
            influence.index_copy_(0, place_in_unit(predicted), widen(columns, plan.columns));
        }
        if (!exact.empty()) {
            const auto place = at::tensor(exact_place, at::TensorOptions().dtype(torch::kInt64));
            norm.index_copy_(0, place_in_unit(exact), landmarks.norm.index_select(0, place));
            influence.index_copy_(0, place_in_unit(exact),
                                  widen(landmarks.influence.index_select(0, place), plan.columns));
        }
        return {norm, influence};
    };
    do_units(run, {pool_rows, "propagate", &plan.pool_units, sample_work(run.inputs.pool), compute});
}

}  // namespace idistill::stages
