#include "idistill/work/collectives.hpp"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <span>

#include "idistill/base/error.hpp"

namespace idistill::work {
namespace {

using torch::Tensor;

template <class T>
std::span<T> numbers(const Tensor& tensor) {
    return {tensor.mutable_data_ptr<T>(), static_cast<std::size_t>(tensor.numel())};
}

void reduce(comm::Collectives& collectives, const Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case torch::kFloat32:
            return collectives.all_reduce_disjoint(numbers<float>(tensor));
        case torch::kFloat64:
            return collectives.all_reduce_disjoint(numbers<double>(tensor));
        default:
            throw Error(ExitCode::internal_error,
                        {"all_reduce_disjoint", "tensor", "fp32 or fp64", c10::toString(tensor.scalar_type()), ""});
    }
}

}  // namespace

void all_reduce_disjoint(comm::Communicator& comm, const Tensor& tensor) {
    if (!tensor.is_contiguous())
        throw Error(ExitCode::internal_error, {"all_reduce_disjoint", "tensor", "contiguous numbers", "strides", ""});
    if (tensor.is_cpu()) return reduce(comm, tensor);
    if (comm.size() == 1) return;
    if (auto* const device = comm.device()) {
        // NCCL's memory is beside what PyTorch keeps for later tensors.
        if (tensor.is_cuda()) c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache();
        return reduce(*device, tensor);
    }
    const auto host = tensor.cpu();
    reduce(comm, host);
    tensor.copy_(host);
}

}  // namespace idistill::work
