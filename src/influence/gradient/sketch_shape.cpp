#include "idistill/influence/gradient/sketch_shape.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "idistill/base/error.hpp"

namespace idistill::influence {

using model::LinearLayer;

namespace {

/// The kronecker sketch of at most `numbers` entries, at least one a layer.
SketchShape kronecker_shape(std::int64_t numbers, const std::vector<LinearLayer>& layers) {
    const auto count = static_cast<std::int64_t>(layers.size());
    std::int64_t smallest = std::min(layers.front().inputs, layers.front().outputs);
    for (const auto& layer : layers) smallest = std::min({smallest, layer.inputs, layer.outputs});
    const auto root = static_cast<std::int64_t>(std::sqrt(static_cast<double>(numbers / count)));
    const std::int64_t side = std::min(root, smallest);
    return {.side = side, .width = count * side * side};
}

}  // namespace

void check_sketch_dim(SketchKind sketch, std::int64_t sketch_dim, const std::vector<LinearLayer>& chosen) {
    if (sketch == SketchKind::rademacher || sketch == SketchKind::none) return;
    const auto layers = static_cast<std::int64_t>(chosen.size());
    const std::string found = std::to_string(sketch_dim);
    if (sketch_dim < layers) {
        throw Error(ExitCode::usage, {"--sketch-dim",
                                      {},
                                      "at least " + std::to_string(layers) + ", one number for every chosen layer",
                                      found,
                                      "Give a larger --sketch-dim, or choose fewer layers with --parameters."});
    }
    for (std::int64_t i = 0; sketch == SketchKind::hadamard && i < layers; ++i) {
        const auto& layer = chosen[static_cast<std::size_t>(i)];
        const std::int64_t share = sketch_dim / layers + (i < sketch_dim % layers ? 1 : 0);
        if (share <= padded_entries(layer)) continue;
        throw Error(
            ExitCode::usage,
            {"--sketch-dim", layer.name, "at most " + std::to_string(padded_entries(layer)) + " numbers for this layer",
             std::to_string(share) + ", its share of " + found, "Give a smaller --sketch-dim, or --sketch none."});
    }
}

std::int64_t fft_length(std::int64_t most) {
    const std::int64_t step = most < 64 ? 1 : 8;
    for (auto length = most - most % step; length > 1; length -= step) {
        auto rest = length;
        for (const std::int64_t prime : {2, 3, 5})
            while (rest % prime == 0) rest /= prime;
        if (rest == 1) return length;
    }
    return 1;
}

SketchShape tensor_shape(std::int64_t numbers, const std::vector<LinearLayer>& layers) {
    const auto count = static_cast<std::int64_t>(layers.size());
    auto most = numbers / count;
    for (const auto& layer : layers) most = std::min(most, layer.inputs * layer.outputs);
    const auto length = fft_length(most);
    return {.length = length, .width = count * length};
}

SketchShape sketch_shape(const GradientSettings& settings, const std::vector<LinearLayer>& chosen) {
    SketchShape shape;
    const auto numbers = settings.sketch_numbers();
    check_sketch_dim(settings.sketch, numbers, chosen);
    if (settings.sketch == SketchKind::kronecker) {
        shape = kronecker_shape(numbers, chosen);
    } else if (settings.sketch == SketchKind::tensor) {
        shape = tensor_shape(numbers, chosen);
    } else if (settings.sketch == SketchKind::none) {
        for (const auto& layer : chosen) shape.width += layer.inputs * layer.outputs;
    } else {
        shape.width = numbers;
    }
    return shape;
}

std::int64_t padded_entries(const LinearLayer& layer) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(layer.inputs * layer.outputs)));
}

}  // namespace idistill::influence
