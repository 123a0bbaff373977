#pragma once
// What a decoder can compute on in a test, and how near the results must come to those in double precision.

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "idistill/model/cuda.hpp"
#include "test_device.hpp"
#include "tiny_decoder.hpp"

namespace idistill::test {

struct TestPlace {
    std::string name;
    model::Decoder decoder;
    double tolerance;  ///< relative error of losses, norms, sketches and so on
};

/// Samples padded on this CPU in 64, 32 and 16 bits, and the same on the test device, or with
/// IDISTILL_TEST_DEVICE=cuda on a GPU.
inline std::vector<TestPlace> padded_places(const TinyModel& tiny) {
    std::vector<TestPlace> places;
    // Angles are in fp32 on every device, whose cosines differ in their last bit.
    const auto add = [&](const std::string& device, torch::Device on, double least) {
        for (const auto& [type, name, tolerance] :
             {std::tuple(torch::kFloat64, "fp64", 1e-12), std::tuple(torch::kFloat32, "fp32", 1e-5),
              std::tuple(torch::kBFloat16, "bf16", 4e-2)})
            places.push_back({device + " " + name, tiny.decoder().to(on, type).padded(), std::max(tolerance, least)});
    };
    add("cpu", torch::kCPU, 0.0);
    const char* wanted = std::getenv("IDISTILL_TEST_DEVICE");
    if (wanted != nullptr && std::string(wanted) == "cuda") {
        model::cuda::use_gpu(0);
        add("cuda", {torch::kCUDA, 0}, 2e-6);
    } else {
        add("test device", test_device(), 0.0);
    }
    return places;
}

/// Llama whose heads are as wide as attention kernels want them.
inline model::ModelConfig tiny_wide_heads() {
    auto c = tiny_llama();
    c.head_dim = 16;
    c.hidden = 40;
    c.intermediate = 48;
    c.attention_bias = c.attention_output_bias = c.mlp_bias = false;
    return c;
}

}  // namespace idistill::test
