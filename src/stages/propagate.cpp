// Stage 5, propagate: units of the pool claimed by any rank; embeddings live only within a unit, influence rows go to
// the state.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "features.hpp"
#include "labels.hpp"
#include "units.hpp"

namespace idistill::stages {

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

Tensor products_of(const LandmarkLabels& landmarks) { return at::cat({landmarks.influence, landmarks.factor}, 1); }

bool raw(const Run& run) { return run.settings.normalize == "none"; }

std::vector<std::int64_t> eligible_rows(const config::Plan& plan, const data::RowRange& range) {
    std::vector<std::int64_t> rows;
    for (auto row = range.first; row < range.end(); ++row)
        if (plan.eligible[static_cast<std::size_t>(row)] != 0) rows.push_back(row);
    return rows;
}

void propagate_to_pool(const Run& run, const TargetLabels& targets, const LandmarkLabels& landmarks,
                       const Propagation& propagation) {
    const auto& plan = run.inputs.plan;
    const auto columns = targets.products();
    const auto exact_products = products_of(landmarks);
    const propagation::Propagator propagate(propagation.solution, run.model.decoder.options().device());
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.stored_columns()}, std::numeric_limits<float>::quiet_NaN());
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
            const auto embedding = embed(run, predicted, propagation.embeddings);
            const auto values = propagate(features_of(run, predicted, embedding)).cpu();
            const auto predicted_norm = values.select(1, columns).exp();
            auto products = values.narrow(1, 0, columns);
            if (raw(run)) products = products * predicted_norm.unsqueeze(1);
            norm.index_copy_(0, place_in_unit(predicted), predicted_norm);
            influence.index_copy_(0, place_in_unit(predicted), widen(products, plan.stored_columns()));
        }
        if (!exact.empty()) {
            const auto place = at::tensor(exact_place, at::TensorOptions().dtype(torch::kInt64));
            norm.index_copy_(0, place_in_unit(exact), landmarks.norm.index_select(0, place));
            influence.index_copy_(0, place_in_unit(exact),
                                  widen(exact_products.index_select(0, place), plan.stored_columns()));
        }
        return {norm, influence};
    };
    do_units(run, {pool_rows, "propagate", &plan.pool_units, sample_work(run.inputs.pool), compute});
}

}  // namespace idistill::stages
