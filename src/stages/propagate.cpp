// Stage 5, propagate: units of the pool claimed by any rank; features live only within a unit, influence rows go to the
// state.

#include <ATen/ATen.h>

#include <algorithm>

#include "exact_rows.hpp"

namespace idistill::stages {

using torch::Tensor;

void propagate_to_pool(const Run& run, const Labels& labels) {
    const auto& landmarks = labels.landmarks;
    work::do_units(run.work, state::pool, [&](const data::WorkUnit& unit) {
        UnitRows rows(run.inputs.influence->layout(), unit.rows.count);
        std::vector<std::int64_t> predicted, exact, exact_place;
        for (const auto row : plan::eligible_in(run.inputs.usable, unit.rows)) {
            const auto landmark = landmarks.place.find(row);
            const auto& unusable = run.columns.unusable;
            if (std::binary_search(unusable.begin(), unusable.end(), row)) continue;
            if (landmark == landmarks.place.end()) {
                predicted.push_back(row);
            } else {
                exact.push_back(row);
                exact_place.push_back(landmark->second);
            }
        }
        if (!predicted.empty())
            rows.put(places_in(unit, predicted), run.inputs.propagation->predict({run.inputs.pool, predicted}));
        if (!exact.empty()) {
            const auto place = at::tensor(exact_place, at::TensorOptions().dtype(torch::kInt64));
            const auto of = [&](const Tensor& all) { return all.defined() ? all.index_select(0, place) : all; };
            rows.put(places_in(unit, exact), {of(landmarks.labels.logarithmic), of(landmarks.labels.products)});
        }
        return rows.columns();
    });
}

}  // namespace idistill::stages
