#include "idistill/influence/gradient/per_sample.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "idistill/model/precision.hpp"

namespace idistill::influence {

using model::LayerTap;
using torch::Tensor;

namespace {

constexpr std::int64_t summed_at_once = std::int64_t{1} << 15;

/// FLOPs of |G_i|^2 from the Gram matrices of its rows' inputs and output gradients.
double gram_flops(double rows, double outputs, double inputs) { return rows * (rows + 1.0) * (outputs + inputs); }

/// inner_products in two products whatever the length, for a device.
Tensor inner_products_at_once(const Tensor& rows, const Tensor& others) {
    const auto whole = rows.size(1) / summed_at_once;
    auto sums = at::zeros({rows.size(0), others.size(0)}, rows.options().dtype(torch::kFloat64));
    const auto parts = [&](const Tensor& x) {
        return x.narrow(1, 0, whole * summed_at_once).view({x.size(0), whole, summed_at_once}).transpose(0, 1);
    };
    if (whole > 0) sums.add_(at::bmm(parts(rows), parts(others).transpose(1, 2)).to(torch::kFloat64).sum(0));
    const auto rest = [&](const Tensor& x) {
        return x.narrow(1, whole * summed_at_once, x.size(1) - whole * summed_at_once);
    };
    return sums.add_(at::mm(rest(rows), rest(others).t()));
}

/// <x, x> of all numbers of x, fp64.
Tensor squared_norm(const Tensor& x) { return inner_products(x.reshape({1, -1}), x.reshape({1, -1}))[0][0]; }

/// |sum_r y_r x_r'|^2 = sum_rs (y_r.y_s)(x_r.x_s): products that cancel may round to below zero; NaN stays.
Tensor squared_norm_by_rows(const Tensor& x, const Tensor& y) {
    return at::dot(at::mm(x, x.t()).view({-1}), at::mm(y, y.t()).view({-1})).clamp_min(0.0);
}

/// Of a sample's whole gradient, however long it is, counted as a quarter: what gradients are multiplied with is read once
/// for each group.
std::function<double(double)> whole_bytes(const LayerTap& tap) {
    return [bytes = 0.25 * static_cast<double>(gradient_bytes(tap))](double /*longest*/) { return bytes; };
}

/// Gradients (m x outputs x inputs) of padded samples [first, first + m).
Tensor padded_gradients(const LayerTap& tap, std::int64_t first, std::int64_t m) {
    return model::wide_bmm(tap.padding->zero_filled(tap.output_gradient, first, m).transpose(1, 2),
                           tap.padding->repeated(tap.input, first, m));
}

/// squared_norm_by_rows of padded samples.
void add_padded_norms_by_rows(const LayerTap& tap, Tensor& squared) {
    const auto width = static_cast<double>(tap.input.size(1) + tap.output_gradient.size(1));
    tap.padding->in_groups([width](double longest) { return longest * (2.0 * longest + width) * sizeof(float); },
                           [&](std::int64_t first, std::int64_t m) {
                               const auto gram = [](const Tensor& x) { return model::wide_bmm(x, x.transpose(1, 2)); };
                               const auto products = gram(tap.padding->zero_filled(tap.output_gradient, first, m))
                                                         .mul_(gram(tap.padding->repeated(tap.input, first, m)));
                               squared.narrow(0, first, m).add_(products.flatten(1).sum(1).clamp_min(0.0));
                           });
}

/// accumulate_squared_norms and accumulate_products_and_norms of padded samples; by whole gradients or by rows for all
/// of them.
void accumulate_padded(const LayerTap& tap, const Tensor& directions, Tensor& products, Tensor& squared) {
    const auto count = directions.defined() ? directions.size(0) : std::int64_t{0};
    const auto outputs = static_cast<double>(tap.output_gradient.size(1));
    const auto inputs = static_cast<double>(tap.input.size(1));
    const auto rows = static_cast<double>(tap.padding->longest());
    const double forward = 2.0 * rows * outputs * inputs;
    const double by_rows = static_cast<double>(count) * forward + gram_flops(rows, outputs, inputs);
    const double by_gradient = forward + static_cast<double>(count + 1) * 2.0 * outputs * inputs;
    if (by_gradient < by_rows) {
        tap.padding->in_groups(whole_bytes(tap), [&](std::int64_t first, std::int64_t m) {
            const auto gradients = padded_gradients(tap, first, m);
            if (count > 0)
                products.narrow(0, first, m).add_(inner_products(gradients.flatten(1), directions.flatten(1)));
            accumulate_dense_norms(gradients, squared.narrow(0, first, m));
        });
        return;
    }
    const auto y = model::widened(tap.output_gradient);
    for (std::int64_t c = 0; c < count; ++c) {
        const auto along = model::wide_mm(tap.input, directions.select(0, c).to(tap.input.scalar_type()).t());
        products.select(1, c).add_(tap.padding->sums((along * y).sum(1)));
    }
    add_padded_norms_by_rows(tap, squared);
}

}  // namespace

std::int64_t gradient_bytes(const LayerTap& tap) {
    const auto number = at::elementSize(model::accumulate_type(tap.input.scalar_type()));
    return tap.output_gradient.size(1) * tap.input.size(1) * static_cast<std::int64_t>(number);
}

Tensor inner_products(const Tensor& rows, const Tensor& others) {
    if (!rows.is_cpu()) return inner_products_at_once(rows, others);
    auto sums = at::zeros({rows.size(0), others.size(0)}, rows.options().dtype(torch::kFloat64));
    for (std::int64_t first = 0; first < rows.size(1); first += summed_at_once) {
        const auto count = std::min(summed_at_once, rows.size(1) - first);
        sums.add_(at::mm(rows.narrow(1, first, count), others.narrow(1, first, count).t()));
    }
    return sums;
}

Tensor sample_gradient(const LayerTap& tap, std::int64_t first, std::int64_t rows) {
    return model::wide_mm(tap.output_gradient.narrow(0, first, rows).t(), tap.input.narrow(0, first, rows));
}

void for_each_dense(const LayerTap& tap, const Change& change, std::int64_t count,
                    const std::function<void(std::int64_t, const Tensor&)>& body) {
    if (tap.padding != nullptr) {
        tap.padding->in_groups(whole_bytes(tap), [&](std::int64_t first, std::int64_t m) {
            const auto gradients = padded_gradients(tap, first, m);
            if (change) change(tap.layer, gradients);
            body(first, gradients);
        });
        return;
    }
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
    if (!gradients.is_cpu()) {
        squared.add_(at::linalg_vector_norm(gradients, 2, {1, 2}).to(torch::kFloat64).square());
        return;
    }
    for (std::int64_t i = 0; i < gradients.size(0); ++i) {
        squared.select(0, i).add_(squared_norm(gradients.select(0, i)));
    }
}

void accumulate_squared_norms(const LayerTap& tap, Tensor& squared) {
    if (tap.padding != nullptr) {
        Tensor no_products;
        return accumulate_padded(tap, {}, no_products, squared);
    }
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
    if (tap.padding != nullptr) return accumulate_padded(tap, directions, products, squared);
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
    for_each_dense(tap, change, 1, [&](std::int64_t first, const Tensor& gradients) {
        const auto m = gradients.size(0);
        products.narrow(0, first, m).add_(inner_products(gradients.flatten(1), directions.flatten(1)));
        accumulate_dense_norms(gradients, squared.narrow(0, first, m));
    });
}

}  // namespace idistill::influence
