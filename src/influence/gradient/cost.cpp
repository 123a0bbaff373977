#include "idistill/influence/gradient/cost.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace idistill::influence {

using model::entries;
using model::LinearLayer;

namespace {

double norm_without_gradient(const LinearLayer& layer, double rows) {
    return std::min(rows * (rows + 1.0) * static_cast<double>(layer.inputs + layer.outputs),
                    2.0 * rows * entries(layer));
}

/// Of what a whole gradient is made into; the factors' one product an entry is not counted.
double change_flops(const LinearLayer& layer, GradientKind kind) {
    return kind == GradientKind::adam_step ? adam_flops * entries(layer) : 0.0;
}

/// Of `length` real numbers.
double spectrum_flops(double length) { return 2.5 * length * std::log2(std::max(2.0, length)); }

double kronecker_flops(const LinearLayer& layer, double rows, double side) {
    return 2.0 * rows * side * static_cast<double>(layer.inputs + layer.outputs) + 2.0 * rows * side * side;
}

}  // namespace

double tensor_flops(const LinearLayer& layer, double rows, double length) {
    return rows *
           (2.0 * static_cast<double>(layer.inputs + layer.outputs) + 2.0 * spectrum_flops(length) + 4.0 * length);
}

GradientCost::GradientCost(const model::ModelConfig& model, std::vector<LinearLayer> chosen, SketchKind sketch,
                           SketchShape shape)
    : passes_(model), chosen_(std::move(chosen)), sketch_(sketch), shape_(shape) {}

double GradientCost::sketch_and_norm(const LinearLayer& layer, double rows, GradientKind kind) const {
    const double size = entries(layer);
    const auto side = static_cast<double>(shape_.side), length = static_cast<double>(shape_.length);
    if (sketch_ == SketchKind::tensor && kind == GradientKind::plain)
        return tensor_flops(layer, rows, length) + norm_without_gradient(layer, rows);
    if (sketch_ == SketchKind::kronecker && kind == GradientKind::plain) {
        return kronecker_flops(layer, rows, side) + norm_without_gradient(layer, rows);
    }
    const double gradient_and_norm = 2.0 * rows * size + 2.0 * size + change_flops(layer, kind);
    if (sketch_ == SketchKind::kronecker)
        return gradient_and_norm + 2.0 * side * (size + side * static_cast<double>(layer.outputs));
    if (sketch_ == SketchKind::tensor) return gradient_and_norm + 2.0 * size + spectrum_flops(length);
    if (sketch_ == SketchKind::rademacher) return gradient_and_norm + 2.0 * static_cast<double>(shape_.width) * size;
    if (sketch_ == SketchKind::none) return gradient_and_norm;
    const auto padded = static_cast<double>(padded_entries(layer));
    return gradient_and_norm + padded * std::log2(padded);
}

double GradientCost::gradient(std::int64_t tokens, std::int64_t labels, GradientKind kind) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = passes_.passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) flops += sketch_and_norm(layer, passes_.rows_of(layer, count, predicted), kind);
    return flops;
}

double GradientCost::contraction(std::int64_t tokens, std::int64_t labels, std::int64_t directions,
                                 GradientKind kind) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    const auto products = static_cast<double>(directions);
    double flops = passes_.passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) {
        const double rows = passes_.rows_of(layer, count, predicted);
        const double size = entries(layer);
        const double by_gradient = 2.0 * rows * size + (products + 1.0) * 2.0 * size + change_flops(layer, kind);
        flops += kind == GradientKind::plain
                     ? std::min(products * 2.0 * rows * size + norm_without_gradient(layer, rows), by_gradient)
                     : by_gradient;
    }
    return flops;
}

double GradientCost::gradient_sum(std::int64_t tokens, std::int64_t labels) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = passes_.passes(chosen_, count, predicted, predicted);
    for (const auto& layer : chosen_) flops += 2.0 * passes_.rows_of(layer, count, predicted) * entries(layer);
    return flops;
}

double GradientCost::hessian_product(std::int64_t tokens, std::int64_t labels) const {
    const auto count = static_cast<double>(tokens);
    const auto predicted = static_cast<double>(labels);
    double flops = 2.0 * passes_.passes(chosen_, count, predicted, predicted) - passes_.forward_below(chosen_, count);
    for (const auto& layer : chosen_) flops += 8.0 * passes_.rows_of(layer, count, predicted) * entries(layer);
    return flops;
}

double GradientCost::scores(std::int64_t columns) const {
    return 2.0 * static_cast<double>(shape_.width) * static_cast<double>(columns);
}

}  // namespace idistill::influence
