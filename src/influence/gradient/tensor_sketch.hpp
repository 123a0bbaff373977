#pragma once
// The tensor sketch of gradients that are sums of outer products.

#include <memory>
#include <vector>

#include "idistill/influence/gradient/sketch.hpp"

namespace idistill::influence {

/// `length` numbers a layer (sketch.hpp, tensor).
std::unique_ptr<GradientSketch> make_tensor_sketch(const std::vector<model::LinearLayer>& layers, std::int64_t length,
                                                   std::uint64_t seed, const torch::TensorOptions& options);

}  // namespace idistill::influence
