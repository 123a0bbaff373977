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

/// Calls exchange(collectives, the tensor's numbers).
template <class Exchange>
void exchange_numbers(const char* call, comm::Collectives& collectives, const Tensor& tensor, Exchange&& exchange) {
    switch (tensor.scalar_type()) {
        case torch::kFloat32:
            return exchange(collectives, numbers<float>(tensor));
        case torch::kFloat64:
            return exchange(collectives, numbers<double>(tensor));
        default:
            throw Error(ExitCode::internal_error,
                        {call, "tensor", "fp32 or fp64", c10::toString(tensor.scalar_type()), ""});
    }
}

/// By the collectives of the memory that the tensor is in, or else through the host's.
template <class Exchange>
void between_ranks(const char* call, comm::Communicator& comm, const Tensor& tensor, Exchange&& exchange) {
    if (!tensor.is_contiguous())
        throw Error(ExitCode::internal_error, {call, "tensor", "contiguous numbers", "strides", ""});
    if (tensor.is_cpu()) return exchange_numbers(call, comm, tensor, exchange);
    if (comm.size() == 1) return;
    if (auto* const device = comm.device()) {
        // NCCL's memory is beside what PyTorch keeps for later tensors.
        if (tensor.is_cuda()) c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache();
        return exchange_numbers(call, *device, tensor, exchange);
    }
    const auto host = tensor.cpu();
    exchange_numbers(call, comm, host, exchange);
    tensor.copy_(host);
}

}  // namespace

void all_reduce_disjoint(comm::Communicator& comm, const Tensor& tensor) {
    between_ranks("all_reduce_disjoint", comm, tensor,
                  [](comm::Collectives& collectives, auto values) { collectives.all_reduce_disjoint(values); });
}

void broadcast(comm::Communicator& comm, const Tensor& tensor) {
    between_ranks("broadcast", comm, tensor,
                  [](comm::Collectives& collectives, auto values) { collectives.broadcast(values); });
}

}  // namespace idistill::work
