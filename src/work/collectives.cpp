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

/// Calls body(values) with the tensor's numbers in their type.
template <class Body>
void with_numbers(const char* call, const Tensor& tensor, Body&& body) {
    switch (tensor.scalar_type()) {
        case torch::kFloat32:
            return body(numbers<float>(tensor));
        case torch::kFloat64:
            return body(numbers<double>(tensor));
        default:
            throw Error(ExitCode::internal_error,
                        {call, "tensor", "fp32 or fp64", c10::toString(tensor.scalar_type()), ""});
    }
}

/// Calls exchange(collectives, tensor), with those of the memory that the tensor is in, or else with a copy in the
/// host's.
template <class Exchange>
void between_ranks(const char* call, comm::Communicator& comm, const Tensor& tensor, Exchange&& exchange) {
    if (!tensor.is_contiguous())
        throw Error(ExitCode::internal_error, {call, "tensor", "contiguous numbers", "strides", ""});
    if (tensor.is_cpu()) return exchange(comm, tensor);
    if (comm.size() == 1) return;
    if (auto* const device = comm.device()) {
        // NCCL's memory is beside what PyTorch keeps for later tensors.
        if (tensor.is_cuda()) c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache();
        return exchange(*device, tensor);
    }
    const auto host = tensor.cpu();
    exchange(comm, host);
    tensor.copy_(host);
}

}  // namespace

void all_reduce_disjoint(comm::Communicator& comm, const Tensor& tensor) {
    const auto* const call = "all_reduce_disjoint";
    between_ranks(call, comm, tensor, [&](comm::Collectives& collectives, const Tensor& there) {
        with_numbers(call, there, [&](auto values) { collectives.all_reduce_disjoint(values); });
    });
}

void broadcast(comm::Communicator& comm, const Tensor& tensor) {
    const auto* const call = "broadcast";
    between_ranks(call, comm, tensor, [&](comm::Collectives& collectives, const Tensor& there) {
        with_numbers(call, there, [&](auto values) { collectives.broadcast(values); });
    });
}

}  // namespace idistill::work
