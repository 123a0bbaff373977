#pragma once
// How long a gradient sketch is, and what it costs. No LibTorch here.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/influence/gradient/settings.hpp"
#include "idistill/model/model_config.hpp"

namespace idistill::influence {

/// Size of one gradient sketch.
struct SketchShape {
    std::int64_t side = 0;    ///< kronecker: every layer's gradient becomes side x side; otherwise 0
    std::int64_t length = 0;  ///< tensor: numbers of every layer; otherwise 0
    std::int64_t width = 0;   ///< k, all layers together
};

/// Kronecker, tensor and hadamard share sketch_dim out over the layers. Throws Error(usage) for one that leaves a layer
/// without a number, or gives one more than padded_entries (hadamard).
void check_sketch_dim(SketchKind sketch, std::int64_t sketch_dim, const std::vector<model::LinearLayer>& chosen);

/// Held at a time by the rademacher sketch, of dense gradients and of rows of signs; one of each at least.
inline constexpr std::int64_t rademacher_gradient_bytes = std::int64_t{256} << 20;
inline constexpr std::int64_t rademacher_sign_bytes = std::int64_t{64} << 20;

/// Rows of a sample that the tensor sketch takes apart at a time: both count sketches and both spectra stay near
/// the processor.
inline constexpr std::int64_t tensor_rows_at_once = 64;

/// Numbers in fp32 that the tensor sketch keeps of every input and output: a bucket, 8 bytes, and a sign.
inline constexpr double tensor_map_numbers = 3.0;

/// tensor: length = fft_length(sketch_dim / layers), of the smallest layer's entries at most, width layers * length;
/// kronecker: side = floor(sqrt(sketch_dim / layers)), at most the smallest dimension of a layer, width layers *
/// side^2; hadamard, rademacher: sketch_dim; none: every entry of the chosen layers. Throws as check_sketch_dim.
SketchShape sketch_shape(const GradientSettings& settings, const std::vector<model::LinearLayer>& chosen);

/// The largest length of at most `most` numbers that is transformed fast: no prime factor above 5, from 64 on a
/// multiple of 8.
std::int64_t fft_length(std::int64_t most);

/// The tensor sketch of at most `numbers` entries, at least one a layer.
SketchShape tensor_shape(std::int64_t numbers, const std::vector<model::LinearLayer>& layers);

/// Entries of a layer's gradient, padded to a power of two: what a hadamard sketch transforms.
std::int64_t padded_entries(const model::LinearLayer& layer);

}  // namespace idistill::influence
