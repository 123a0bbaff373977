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

/// Sends what rank 0 has, one value after the other. Collective.
class Sender {
public:
    explicit Sender(comm::Communicator& comm) : comm_(comm) {}

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
    /// Into the memory that rank 0 has it in, the host's or that of the rank's own device.
    template <class T>
    void tensor(torch::Tensor& values) const {
        auto shape = values.defined() ? values.sizes().vec() : std::vector<std::int64_t>();
        auto device = static_cast<int>(values.defined() ? values.device().type() : torch::kCPU);
        (*this)(shape);
        (*this)(device);
        const auto options = torch::dtype(c10::CppTypeToScalarType<T>::value)
                                 .device(torch::Device(static_cast<torch::DeviceType>(device)));
        values = comm_.is_root() ? values.contiguous() : torch::empty(shape, options);
        work::broadcast(comm_, values);
    }

private:
    comm::Communicator& comm_;
};

}  // namespace idistill::propagation
