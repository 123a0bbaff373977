#include <type_traits>

#include "member.hpp"

namespace idistill::propagation {
namespace {

/// Sends what rank 0 has, one value after the other.
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

}  // namespace

void broadcast_fit(comm::Communicator& comm, Fit& fit, const std::function<Features(const Places&)>& landmarks) {
    const Sender send(comm);
    auto& solution = fit.solution;
    send(fit.candidate);
    send(fit.embeddings);
    for (const auto& [name, values] : trial_datasets) send(fit.trials.*values);
    for (const auto& [name, values] : trust_datasets) send(fit.trust.*values);
    send.tensor<float>(fit.leave_one_out);
    if (!comm.is_root()) solution.landmarks = landmarks(fit.embeddings);
    send(solution.kernel.metadata);
    send(solution.kernel.product);
    send(solution.kernel.widths);
    send(solution.embedding_bandwidths);
    send(solution.length_bandwidth);
    send(solution.damping);
    send(solution.has_intercept);
    send.tensor<double>(solution.coefficients);
    send.tensor<double>(solution.intercept);
}

}  // namespace idistill::propagation
