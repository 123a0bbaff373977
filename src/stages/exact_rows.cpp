#include "exact_rows.hpp"

#include <ATen/ATen.h>

namespace idistill::stages {

influence::Rows exact_rows(const Run& run, const std::vector<std::int64_t>& rows) {
    return run.inputs.influence->rows(run.inputs.pool.read(rows), run.columns);
}

std::vector<std::int64_t> places_in(const data::WorkUnit& unit, const std::vector<std::int64_t>& rows) {
    std::vector<std::int64_t> places;
    places.reserve(rows.size());
    for (const auto row : rows) places.push_back(row - unit.rows.first);
    return places;
}

UnitRows::UnitRows(const influence::Layout& layout, std::int64_t rows)
    : products_(work::unknown_rows(rows, layout.products())) {
    if (layout.logarithms() > 0) logarithmic_ = work::unknown_rows(rows, layout.logarithms());
}

void UnitRows::put(const std::vector<std::int64_t>& places, const influence::Rows& values) {
    work::put_rows(products_, places, values.products);
    if (logarithmic_.defined()) work::put_rows(logarithmic_, places, values.logarithmic);
}

std::vector<torch::Tensor> UnitRows::columns() const {
    return logarithmic_.defined() ? std::vector{logarithmic_, products_} : std::vector{products_};
}

}  // namespace idistill::stages
