#pragma once
// What a rank computes on, and in which numbers.

#include <torch/types.h>

#include "idistill/options/run_settings.hpp"

namespace idistill::model {

struct Place {
    torch::Device device = torch::kCPU;
    torch::ScalarType dtype = torch::kFloat32;
};

/// Of settings whose device is chosen (stages/device.cpp); of this rank's GPU, the one that is current.
Place place_of(const options::RunSettings& run);

}  // namespace idistill::model
