#pragma once
// What rank 0 fitted on its way to the others.

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "idistill/comm/communicator.hpp"

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
    template <class T>
    void tensor(torch::Tensor& values) const {
        auto shape = values.defined() ? values.sizes().vec() : std::vector<std::int64_t>();
        (*this)(shape);
        values = comm_.is_root() ? values.contiguous() : torch::empty(shape, c10::CppTypeToScalarType<T>::value);
        comm_.broadcast(std::span(values.template mutable_data_ptr<T>(), static_cast<std::size_t>(values.numel())));
    }

private:
    comm::Communicator& comm_;
};

}  // namespace idistill::propagation
