#pragma once
// Kernel ridge regression written as differently from the library as it can be: loops over doubles, Gaussian
// elimination, and really leaving rows out.

#include <algorithm>
#include <cmath>
#include <vector>

#include "idistill/propagation/kernel_ridge.hpp"

namespace idistill::testing {

using propagation::Features;
using torch::Tensor;
using Row = std::vector<double>;
using Matrix = std::vector<Row>;

inline Matrix to_matrix(const Tensor& values) {
    const auto exact = values.to(torch::kFloat64).contiguous();
    Matrix matrix;
    for (std::int64_t i = 0; i < exact.size(0); ++i) {
        const double* row = exact.const_data_ptr<double>() + i * exact.size(1);
        matrix.emplace_back(row, row + exact.size(1));
    }
    return matrix;
}

inline double number(const Tensor& values, std::int64_t i, std::int64_t j) { return values[i][j].item<double>(); }

inline double squared_distance(const Row& a, const Row& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

inline double naive_median_distance(const Matrix& rows) {
    Row distances;
    for (std::size_t i = 0; i < std::min<std::size_t>(1000, rows.size()); ++i) {
        for (std::size_t j = 0; j < i; ++j) distances.push_back(std::sqrt(squared_distance(rows[i], rows[j])));
    }
    std::sort(distances.begin(), distances.end());
    const std::size_t n = distances.size();
    return n % 2 == 1 ? distances[n / 2] : (distances[n / 2 - 1] + distances[n / 2]) / 2.0;
}

/// The kernel as the header states it.
struct NaiveKernel {
    double embedding_bandwidth;
    double length_bandwidth;
    bool metadata;

    [[nodiscard]] Matrix operator()(const Features& a, const Features& b) const {
        const auto ea = to_matrix(a.embedding), eb = to_matrix(b.embedding);
        const auto rbf = [](double squared, double sigma) { return std::exp(-squared / (2.0 * sigma * sigma)); };
        Matrix kernel(ea.size(), Row(eb.size()));
        const auto la = metadata ? to_matrix(a.log_lengths) : Matrix{},
                   lb = metadata ? to_matrix(b.log_lengths) : Matrix{};
        for (std::size_t i = 0; i < ea.size(); ++i) {
            for (std::size_t j = 0; j < eb.size(); ++j) {
                kernel[i][j] = rbf(squared_distance(ea[i], eb[j]), embedding_bandwidth);
                if (!metadata) continue;
                const bool same = a.source[static_cast<std::int64_t>(i)].item<std::int64_t>() ==
                                  b.source[static_cast<std::int64_t>(j)].item<std::int64_t>();
                kernel[i][j] =
                    (kernel[i][j] + rbf(squared_distance(la[i], lb[j]), length_bandwidth) + (same ? 1.0 : 0.0)) / 3.0;
            }
        }
        return kernel;
    }
};

/// The kernel of several embeddings side by side, each with a bandwidth of its own, as the header states it.
inline Matrix naive_kernel_of(const Features& a, const Features& b, const std::vector<std::int64_t>& widths,
                              const Row& bandwidths, bool product, double length_bandwidth, bool metadata) {
    std::vector<Matrix> kernels;
    std::int64_t first = 0;
    for (std::size_t i = 0; i < widths.size(); first += widths[i++]) {
        const auto part = [&](const Features& f) {
            return Features{f.embedding.narrow(1, first, widths[i]), f.source, f.log_lengths};
        };
        kernels.push_back(NaiveKernel{bandwidths[i], 0.0, false}(part(a), part(b)));
    }
    Matrix sum(kernels[0].size(), Row(kernels[0][0].size()));
    const double count = (product ? 1.0 : static_cast<double>(kernels.size())) + (metadata ? 2.0 : 0.0);
    const Matrix all = metadata ? NaiveKernel{bandwidths[0], length_bandwidth, true}(a, b) : Matrix{};
    const Matrix alone = metadata ? NaiveKernel{bandwidths[0], 0.0, false}(a, b) : Matrix{};
    for (std::size_t r = 0; r < sum.size(); ++r) {
        for (std::size_t c = 0; c < sum[r].size(); ++c) {
            double value = product ? 1.0 : 0.0;
            for (const auto& kernel : kernels) value = product ? value * kernel[r][c] : value + kernel[r][c];
            if (metadata) value += 3.0 * all[r][c] - alone[r][c];  // source and lengths
            sum[r][c] = value / count;
        }
    }
    return sum;
}

inline NaiveKernel naive_kernel(const Features& landmarks, bool metadata) {
    return {naive_median_distance(to_matrix(landmarks.embedding)),
            metadata ? naive_median_distance(to_matrix(landmarks.log_lengths)) : 0.0, metadata};
}

/// a x = b by Gaussian elimination with partial pivoting.
inline Row eliminate(Matrix a, Row b) {
    const std::size_t n = b.size();
    for (std::size_t c = 0; c < n; ++c) {
        std::size_t pivot = c;
        for (std::size_t r = c; r < n; ++r) pivot = std::fabs(a[r][c]) > std::fabs(a[pivot][c]) ? r : pivot;
        std::swap(a[c], a[pivot]);
        std::swap(b[c], b[pivot]);
        for (std::size_t r = c + 1; r < n; ++r) {
            const double factor = a[r][c] / a[c][c];
            for (std::size_t k = c; k < n; ++k) a[r][k] -= factor * a[c][k];
            b[r] -= factor * b[c];
        }
    }
    for (std::size_t c = n; c-- > 0;) {
        for (std::size_t k = c + 1; k < n; ++k) b[c] -= a[c][k] * b[k];
        b[c] /= a[c][c];
    }
    return b;
}

/// Coefficients, then the intercept: [[K + damping I, 1], [1', 0]] (without the border when there is no intercept: 0).
inline Row reference_fit(const Matrix& kernel, const Row& labels, double damping, bool intercept) {
    Matrix system = kernel;
    Row right = labels;
    for (std::size_t i = 0; i < system.size(); ++i) system[i][i] += damping;
    if (intercept) {
        for (auto& row : system) row.push_back(1.0);
        system.emplace_back(labels.size(), 1.0);
        system.back().push_back(0.0);
        right.push_back(0.0);
    }
    auto solution = eliminate(system, right);
    if (!intercept) solution.push_back(0.0);
    return solution;
}

inline double reference_prediction(const Row& fit, const Row& kernel_row) {
    double sum = fit.back();
    for (std::size_t i = 0; i < kernel_row.size(); ++i) sum += fit[i] * kernel_row[i];
    return sum;
}

/// Predictions of some rows (ascending) by a fit that never saw them.
inline Row predicted_without(const std::vector<std::size_t>& out, const Matrix& kernel, const Row& labels,
                             double damping, bool intercept) {
    const auto rest_of = [&](auto values) {
        for (auto place = out.rbegin(); place != out.rend(); ++place)
            values.erase(values.begin() + static_cast<std::ptrdiff_t>(*place));
        return values;
    };
    auto rest = rest_of(kernel);
    for (auto& row : rest) row = rest_of(row);
    const auto fit = reference_fit(rest, rest_of(labels), damping, intercept);
    Row predictions;
    for (const auto place : out) predictions.push_back(reference_prediction(fit, rest_of(kernel[place])));
    return predictions;
}

/// Predictions of every row by a fit that never saw it.
inline Row really_leave_out(const Matrix& kernel, const Row& labels, double damping, bool intercept) {
    Row predictions;
    for (std::size_t out = 0; out < labels.size(); ++out)
        predictions.push_back(predicted_without({out}, kernel, labels, damping, intercept).front());
    return predictions;
}

/// 1 - SSE / SST of differences between two rows of a source, predicted by a fit that saw neither; a pair counts by one
/// over the rows of its source.
inline double really_leave_pairs_out(const Matrix& kernel, const Row& labels, const Tensor& source, double damping,
                                     bool intercept) {
    double error = 0.0, total = 0.0;
    const auto source_of = [&](std::size_t i) { return source[static_cast<std::int64_t>(i)].item<std::int64_t>(); };
    for (std::size_t i = 0; i < labels.size(); ++i) {
        const double weight = 1.0 / source.eq(source_of(i)).sum().item<double>();
        for (std::size_t j = i + 1; j < labels.size(); ++j) {
            if (source_of(i) != source_of(j)) continue;
            const auto predicted = predicted_without({i, j}, kernel, labels, damping, intercept);
            const double difference = labels[i] - labels[j];
            error += weight * std::pow(difference - (predicted[0] - predicted[1]), 2);
            total += weight * difference * difference;
        }
    }
    return 1.0 - error / total;
}

}  // namespace idistill::testing
