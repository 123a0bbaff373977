#pragma once
// CUDA, found while the program runs: it is built without, links LibTorch's CPU half, and loads the other half where a
// GPU is to be computed on. CPU runs load nothing.

#include <torch/types.h>

#include <cstddef>
#include <string>
#include <vector>

namespace idistill::model::cuda {

/// A GPU that this process sees.
struct Gpu {
    std::string name;  ///< "NVIDIA H100 80GB HBM3"
    std::string uuid;  ///< of the card, or of its part: the same in every process
    double bytes = 0;
    std::size_t number = 0;  ///< as CUDA counts what this process sees
};

/// What this process sees: GPUs, or why there are none. Asks the driver alone.
struct Gpus {
    std::vector<Gpu> gpus;
    std::string why_none;
};
Gpus visible_gpus();

/// Loads LibTorch's CUDA half and makes a GPU current, with the same bits every time: deterministic algorithms, one
/// stream, no tf32, no sums in 16 bits. Throws Error(usage) where this LibTorch has none, or another than the driver
/// wants.
void use_gpu(std::size_t gpu);

/// What decides the bits on a GPU beside its model, for people: "LibTorch 2.15.0, fused kernels 1", or in place of
/// these "PyTorch's operations". Throws where there are kernels that cannot be used.
std::string libraries();

/// FLOP/s of large products of numbers of this type, measured on the current GPU within some hundredths of a second.
double product_flops_per_second(torch::ScalarType type);

/// Bytes of the current GPU that are free.
double free_bytes();

/// The most at a time since forget_most_bytes(): what tensors had of it, and what PyTorch kept for them.
struct MostBytes {
    double allocated = 0, reserved = 0;
};
MostBytes most_bytes();
void forget_most_bytes();
/// Gives back what PyTorch keeps for later tensors.
void give_back_unused();

/// Waits for what the current GPU computes.
void synchronise();

}  // namespace idistill::model::cuda
