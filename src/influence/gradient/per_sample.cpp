#include "idistill/influence/gradient/per_sample.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace idistill::influence {

using model::LayerTap;
using torch::Tensor;

Tensor inner_products(const Tensor& rows, const Tensor& others) {
    constexpr std::int64_t summed_at_once = std::int64_t{1} << 15;
    auto sums = at::zeros({rows.size(0), others.size(0)}, rows.options().dtype(torch::kFloat64));
    for (std::int64_t first = 0; first < rows.size(1); first += summed_at_once) {
        const auto count = std::min(summed_at_once, rows.size(1) - first);
        sums.add_(at::mm(rows.narrow(1, first, count), others.narrow(1, first, count).t()));
    }
    return sums;
}

Tensor sample_gradient(const LayerTap& tap, std::int64_t first, std::int64_t rows) {
    return at::mm(tap.output_gradient.narrow(0, first, rows).t(), tap.input.narrow(0, first, rows));
}

namespace {

/// FLOPs of |G_i|^2 from the Gram matrices of its rows' inputs and output gradients.
double gram_flops(double rows, double outputs, double inputs) { return rows * (rows + 1.0) * (outputs + inputs); }

/// <x, x> of all numbers of x, fp64.
Tensor squared_norm(const Tensor& x) { return inner_products(x.reshape({1, -1}), x.reshape({1, -1}))[0][0]; }

/// |sum_r y_r x_r'|^2 = sum_rs (y_r.y_s)(x_r.x_s): products that cancel may round to below zero; NaN stays.
Tensor squared_norm_by_rows(const Tensor& x, const Tensor& y) {
    return at::dot(at::mm(x, x.t()).view({-1}), at::mm(y, y.t()).view({-1})).clamp_min(0.0);
}

}  // namespace

void for_each_dense(const LayerTap& tap, const Change& change, std::int64_t count,
                    const std::function<void(std::int64_t, const Tensor&)>& body) {
    const auto samples = static_cast<std::int64_t>(tap.offsets.size()) - 1;
    const auto most = std::min(count, samples);
    const auto memory = at::empty({most, tap.output_gradient.size(1), tap.input.size(1)}, tap.input.options());
    for (std::int64_t first = 0; first < samples; first += most) {
        auto gradients = memory.narrow(0, 0, std::min(most, samples - first));
        for (std::int64_t i = 0; i < gradients.size(0); ++i) {
            const auto begin = tap.offsets[static_cast<std::size_t>(first + i)];
            const auto rows = tap.offsets[static_cast<std::size_t>(first + i) + 1] - begin;
            auto gradient = gradients.select(0, i);
            at::mm_out(gradient, tap.output_gradient.narrow(0, begin, rows).t(), tap.input.narrow(0, begin, rows));
            if (change) change(tap.layer, gradient);
        }
        body(first, gradients);
    }
}

void accumulate_dense_norms(const Tensor& gradients, Tensor squared) {
    for (std::int64_t i = 0; i < gradients.size(0); ++i) {
        squared.select(0, i).add_(squared_norm(gradients.select(0, i)));
    }
}

void accumulate_squared_norms(const LayerTap& tap, Tensor& squared) {
    const auto outputs = tap.output_gradient.size(1);
    const auto inputs = tap.input.size(1);
    for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
        Tensor square;
        if (rows * (outputs + inputs) < outputs * inputs) {
            square = squared_norm_by_rows(tap.input.narrow(0, first, rows), tap.output_gradient.narrow(0, first, rows));
        } else {
            square = squared_norm(sample_gradient(tap, first, rows));
        }
        squared.select(0, i).add_(square);
    });
}

void accumulate_products_and_norms(const LayerTap& tap, const Tensor& directions, Tensor& products, Tensor& squared) {
    const auto count = directions.size(0);
    if (count == 0) return accumulate_squared_norms(tap, squared);
    const auto outputs = static_cast<double>(tap.output_gradient.size(1));
    const auto inputs = static_cast<double>(tap.input.size(1));
    for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
        const double forward = 2.0 * static_cast<double>(rows) * outputs * inputs;
        const double by_rows =
            static_cast<double>(count) * forward + gram_flops(static_cast<double>(rows), outputs, inputs);
        const double by_gradient = forward + static_cast<double>(count + 1) * 2.0 * outputs * inputs;
        if (by_gradient < by_rows) {
            const auto gradient = sample_gradient(tap, first, rows).view({1, -1});
            products.select(0, i).add_(inner_products(gradient, directions.flatten(1)).view({-1}));
            squared.select(0, i).add_(squared_norm(gradient));
            return;
        }
        const auto x = tap.input.narrow(0, first, rows);
        const auto y = tap.output_gradient.narrow(0, first, rows);
        for (std::int64_t c = 0; c < count; ++c)
            products.select(0, i).select(0, c).add_((at::mm(x, directions.select(0, c).t()) * y).sum());
        squared.select(0, i).add_(squared_norm_by_rows(x, y));
    });
}

void accumulate_changed_products_and_norms(const LayerTap& tap, const Change& change, const Tensor& directions,
                                           Tensor& products, Tensor& squared) {
    for_each_dense(tap, change, 1, [&](std::int64_t i, const Tensor& gradients) {
        products.select(0, i).add_(inner_products(gradients.view({1, -1}), directions.flatten(1)).view({-1}));
        accumulate_dense_norms(gradients, squared.narrow(0, i, 1));
    });
}

}  // namespace idistill::influence
