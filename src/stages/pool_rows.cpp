// Stage 5, units of the pool claimed by any rank: predicted from features that live only within a unit, or without
// propagation exact.

#include "pool_rows.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace idistill::stages {
namespace {

/// NaN where nothing is put: also in the room that a row has for the columns of dropped targets, at its end.
class UnitRows {
public:
    UnitRows(const influence::Layout& layout, std::int64_t rows)
        : logarithmic_(work::unknown_rows(rows, layout.logarithms())),
          products_(work::unknown_rows(rows, layout.products())) {}

    /// values (n) are those of these places of the unit.
    void put(const std::vector<std::int64_t>& places, const influence::Rows& values) {
        work::put_rows(products_, places, values.products);
        if (logarithmic_.size(1) > 0) work::put_rows(logarithmic_, places, values.logarithmic);
    }
    [[nodiscard]] std::vector<torch::Tensor> columns() const {
        return logarithmic_.size(1) > 0 ? std::vector{logarithmic_, products_} : std::vector{products_};
    }

private:
    torch::Tensor logarithmic_, products_;
};

}  // namespace

std::vector<std::int64_t> places_in_unit(const data::WorkUnit& unit, const std::vector<std::int64_t>& rows) {
    std::vector<std::int64_t> places;
    for (const auto row : rows) places.push_back(row - unit.rows.first);
    return places;
}

std::vector<torch::Tensor> exact_unit(const Run& run, std::int64_t rows, const data::SampleSet& samples,
                                      std::vector<std::int64_t> places) {
    UnitRows unit(run.inputs.influence->layout(), rows);
    if (places.empty()) {
        places.resize(samples.rows().size());
        std::iota(places.begin(), places.end(), std::int64_t{0});
    }
    if (!places.empty()) unit.put(places, run.inputs.influence->rows(samples, run.columns));
    return unit.columns();
}

void compute_pool_exactly(const Run& run) {
    work::do_units(run.work, state::pool, [&](const data::WorkUnit& unit) {
        const auto rows = plan::eligible_in(run.inputs.usable, unit.rows);
        return exact_unit(run, unit.rows.count, {run.inputs.pool, rows}, places_in_unit(unit, rows));
    });
}

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
        const auto& propagation = *run.inputs.propagation;
        const auto width = factor_width(run.inputs);
        auto factors = work::unknown_rows(unit.rows.count, width);
        if (!predicted.empty()) {
            const auto places = places_in_unit(unit, predicted);
            const auto found = propagation.predict({run.inputs.pool, predicted});
            rows.put(places, found.rows);
            if (width > 0) work::put_rows(factors, places, found.factors);
        }
        if (!exact.empty()) {
            const auto places = places_in_unit(unit, exact);
            const auto place = at::tensor(exact_place, at::TensorOptions().dtype(torch::kInt64));
            const auto of = [&](const torch::Tensor& all) { return all.defined() ? all.index_select(0, place) : all; };
            rows.put(places, {of(landmarks.labels.logarithmic), of(landmarks.labels.products)});
            if (width > 0) work::put_rows(factors, places, propagation.factors(of(landmarks.features)));
        }
        auto columns = rows.columns();
        if (width > 0) columns.push_back(factors);
        return columns;
    });
}

}  // namespace idistill::stages
