#include "idistill/plan/stage.hpp"

#include <numeric>

namespace idistill::plan {
namespace {

constexpr double unit_record_bytes = 9.0;  // checksum and mark

}  // namespace

std::int64_t Stage::places() const { return units.empty() ? 0 : units.back().rows.end(); }

double Stage::flops() const {
    double sum = 0.0;
    for (const auto& unit : units) sum += unit.flops;
    return static_cast<double>(repeats) * sum;
}

std::int64_t Stage::stored_rows() const {
    switch (keeps) {
        case Keeps::units:
            return std::ssize(units) * kept_rows;
        case Keeps::repeats:
            return repeats * kept_rows;
        case Keeps::rows:
            break;
    }
    return places();
}

std::vector<data::WorkUnit> Stage::stored_units() const {
    if (keeps == Keeps::rows) return units;
    std::vector<data::WorkUnit> stored;
    const auto count = keeps == Keeps::units ? std::ssize(units) : repeats;
    for (std::int64_t i = 0; i < count; ++i) stored.push_back({{i * kept_rows, kept_rows}, 0.0});
    return stored;
}

double Stage::stored_bytes() const {
    std::int64_t width = 0;
    for (const auto& column : columns) width += column.width;
    if (columns.empty()) return 0.0;
    return static_cast<double>(sizeof(float)) * static_cast<double>(stored_rows()) * static_cast<double>(width) +
           unit_record_bytes * static_cast<double>(stored_units().size());
}

}  // namespace idistill::plan
