#pragma once
// What rank 0 fitted on its way to the others.

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/work/collectives.hpp"

namespace idistill::propagation {

/// Sends what rank 0 has, one value after the other; tensors, which are on the host before and after, from device to
/// device. Collective.
class Sender {
public:
    explicit Sender(comm::Communicator& comm, torch::Device device = torch::kCPU) : comm_(comm), device_(device) {}

    template <class T>
    void operator()(std::vector<T>& values) const {
        auto size = values.size();
        (*this)(size);
        values.resize(size);
        comm_.broadcast(std::span(values));
    }
    template <class T>
    requires std::is_arithmetic_v<T>
    void operator()(T& value) const { comm_.broadcast(std::span(&value, 1)); }
    void operator()(bool& value) const {
        auto number = std::int64_t{value};
        (*this)(number);
        value = number != 0;
    }
    template <class T>
    void tensor(torch::Tensor& values) const {
        auto shape = values.defined() ? values.sizes().vec() : std::vector<std::int64_t>();
        (*this)(shape);
        const auto type = at::TensorOptions(c10::CppTypeToScalarType<T>::value).device(device_);
        const auto there = comm_.is_root() ? values.to(device_).contiguous() : torch::empty(shape, type);
        work::broadcast(comm_, there);
        if (!comm_.is_root()) values = there.cpu();
    }

private:
    comm::Communicator& comm_;
    torch::Device device_;
};

}  // namespace idistill::propagation
