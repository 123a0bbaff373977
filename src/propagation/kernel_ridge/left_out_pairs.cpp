#include "left_out_pairs.hpp"

#include <cstddef>
#include <limits>

namespace idistill::propagation {
namespace {

using torch::Tensor;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t landmarks_at_once = 512;  // on either side of the pairs: bounds what is held beside the kernel

struct Squares {
    std::vector<double> error, total;  // (T)
};

/// Adds all pairs of a landmark of `rows` with one of `columns`. The residuals e_i and e_j of a pair left out solve
/// C_ii e_i + C_ij e_j = (C Y)_i and C_ij e_i + C_jj e_j = (C Y)_j.
void add_pairs(const LinearFit& fit, const Tensor& rows, const Tensor& columns, double weight, Squares& sums) {
    const auto between = fit.between(rows, columns);
    const auto of_row = fit.diagonal.index_select(0, rows).unsqueeze(1);
    const auto of_column = fit.diagonal.index_select(0, columns).unsqueeze(0);
    const auto same = rows.unsqueeze(1).eq(columns.unsqueeze(0));
    const auto determinant = (of_row * of_column - between.square()).masked_fill_(same, 1.0);
    const auto row_factor = (of_column + between).div_(determinant);
    const auto column_factor = (of_row + between).div_(determinant);
    for (std::size_t task = 0; task < sums.error.size(); ++task) {
        const auto at = [&](const Tensor& values, const Tensor& landmarks) {
            return values.select(1, static_cast<std::int64_t>(task)).index_select(0, landmarks);
        };
        const auto true_difference = at(fit.labels, rows).unsqueeze(1) - at(fit.labels, columns).unsqueeze(0);
        const auto error = row_factor * at(fit.coefficients, rows).unsqueeze(1) -
                           column_factor * at(fit.coefficients, columns).unsqueeze(0);
        sums.error[task] += weight * error.masked_fill(same, 0.0).square().sum().item<double>();
        sums.total[task] += weight * true_difference.square().sum().item<double>();
    }
}

}  // namespace

std::vector<double> r_squared_of_left_out_pairs(const LinearFit& fit, const Tensor& source) {
    const auto tasks = static_cast<std::size_t>(fit.labels.size(1));
    std::vector<double> r2(tasks, undefined);
    Squares sums{std::vector<double>(tasks, 0.0), std::vector<double>(tasks, 0.0)};
    const auto [names, group, sizes] = torch::_unique2(source, true, true, true);
    for (std::int64_t own = 0; own < names.numel(); ++own) {
        const auto parts = group.eq(own).nonzero().squeeze(1).split(landmarks_at_once);
        const double weight = 1.0 / sizes[own].item<double>();
        for (const auto& rows : parts)
            for (const auto& columns : parts) add_pairs(fit, rows, columns, weight, sums);
    }
    for (std::size_t task = 0; task < tasks; ++task)
        if (sums.total[task] > 0.0) r2[task] = 1.0 - sums.error[task] / sums.total[task];
    return r2;
}

}  // namespace idistill::propagation
