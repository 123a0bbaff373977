#include "idistill/influence/per_sample.hpp"

#include <ATen/ATen.h>

namespace idistill::influence {

using model::LayerTap;
using torch::Tensor;

Tensor sample_gradient(const LayerTap& tap, std::int64_t first, std::int64_t rows) {
    return at::mm(tap.output_gradient.narrow(0, first, rows).t(), tap.input.narrow(0, first, rows));
}

Tensor sample_gradients(const LayerTap& tap) {
    const auto samples = static_cast<std::int64_t>(tap.offsets.size()) - 1;
    auto gradients = at::empty({samples, tap.output_gradient.size(1) * tap.input.size(1)}, tap.input.options());
    for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
        gradients.select(0, i).copy_(sample_gradient(tap, first, rows).view({-1}));
    });
    return gradients;
}

void accumulate_squared_norms(const LayerTap& tap, std::vector<double>& squared) {
    const auto outputs = tap.output_gradient.size(1);
    const auto inputs = tap.input.size(1);
    for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
        const auto x = tap.input.narrow(0, first, rows);
        const auto y = tap.output_gradient.narrow(0, first, rows);
        Tensor square;
        if (rows * (outputs + inputs) < outputs * inputs) {
            square = at::dot(at::mm(x, x.t()).view({-1}), at::mm(y, y.t()).view({-1}));
        } else {
            const auto gradient = sample_gradient(tap, first, rows).view({-1});
            square = at::dot(gradient, gradient);
        }
        const auto value = square.item<double>();
        squared[static_cast<std::size_t>(i)] +=
            value < 0.0 ? 0.0 : value;  // products that cancel may round to below zero; NaN stays
    });
}

void accumulate_contraction(const LayerTap& tap, const Tensor& directions, Tensor& products) {
    for (std::int64_t c = 0; c < directions.size(0); ++c) {
        const auto row_products = (at::mm(tap.input, directions.select(0, c).t()) * tap.output_gradient).sum(1);
        for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
            products.select(0, i).select(0, c).add_(row_products.narrow(0, first, rows).sum());
        });
    }
}

}  // namespace idistill::influence
