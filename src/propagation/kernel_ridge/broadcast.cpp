#include "../sender.hpp"
#include "member.hpp"

namespace idistill::propagation {
void broadcast_fit(comm::Communicator& comm, Fit& fit, const std::function<Features(const Places&)>& landmarks,
                   torch::Device device) {
    const Sender send(comm, device);
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
