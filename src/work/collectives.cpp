#include "idistill/work/collectives.hpp"

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

#include "idistill/base/error.hpp"

namespace idistill::work {
namespace {

using torch::Tensor;

/// Calls `exchange` with the collectives of the memory that a tensor lies in, and the tensor there.
template <class Exchange>
void where_it_lies(comm::Communicator& comm, const Tensor& tensor, const Exchange& exchange) {
    if (!tensor.is_contiguous())
        throw Error(ExitCode::internal_error, {"collective", "tensor", "contiguous numbers", "strides", ""});
    if (tensor.is_cpu()) return exchange(comm, tensor);
    if (comm.size() == 1) return;
    if (auto* const device = comm.device()) return exchange(*device, tensor);
    const auto host = tensor.cpu();
    exchange(comm, host);
    tensor.copy_(host);
}

template <class T>
std::span<T> numbers(const Tensor& tensor) {
    return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.nbytes() / sizeof(T)};
}

}  // namespace

void all_reduce_disjoint(comm::Communicator& comm, const Tensor& tensor) {
    where_it_lies(comm, tensor, [](comm::Collectives& collectives, const Tensor& there) {
        switch (there.scalar_type()) {
            case torch::kFloat32:
                return collectives.all_reduce_disjoint(numbers<float>(there));
            case torch::kFloat64:
                return collectives.all_reduce_disjoint(numbers<double>(there));
            default:
                throw Error(ExitCode::internal_error,
                            {"all_reduce_disjoint", "tensor", "fp32 or fp64", c10::toString(there.scalar_type()), ""});
        }
    });
}

void broadcast(comm::Communicator& comm, const Tensor& tensor, int root) {
    where_it_lies(comm, tensor, [root](comm::Collectives& collectives, const Tensor& there) {
        collectives.broadcast(numbers<std::uint8_t>(there), root);
    });
}

}  // namespace idistill::work
