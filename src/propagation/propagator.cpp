#include <algorithm>
#include <string>

#include "idistill/propagation/kernel_ridge.hpp"
#include "idistill/report/error.hpp"

namespace idistill::propagation {
namespace {

constexpr std::int64_t block_rows = 512;  // the kernel block of 1024 landmarks then fits into a 2 MB cache

torch::Tensor prepared(const torch::Tensor& values, torch::Device device) {
    return values.to(device, torch::kFloat32).contiguous();
}

}  // namespace

Propagator::Rbf Propagator::make_rbf(const torch::Tensor& points, double bandwidth, torch::Device device) {
    const auto exact = points.to(torch::kFloat64);
    const auto centre = exact.mean(0, true).to(torch::kFloat32);
    const auto centred = (points - centre).to(torch::kFloat64);  // in fp32, as the samples will be
    const double precision = 1.0 / (bandwidth * bandwidth);
    return {prepared(centre, device), prepared(centred, device).t(),
            prepared(centred.square().sum(1).mul(-0.5 * precision).unsqueeze(0), device), precision};
}

/// (n x L): exp(-(|a|^2 + |b|^2 - 2 a.b) / (2 sigma^2)), one matrix product and in-place passes over its result.
torch::Tensor Propagator::evaluate(const Rbf& rbf, const torch::Tensor& rows) {
    const auto centred = rows - rbf.centre;
    const auto norms = centred.square().sum(1, true);
    auto kernel = torch::addmm(rbf.bias, centred, rbf.points, 1.0, rbf.precision);
    kernel.sub_(norms, 0.5 * rbf.precision).clamp_max_(0.0).exp_();
    return kernel;
}

Propagator::Propagator(const Solution& solution, torch::Device device)
    : device_(device),
      embedding_(make_rbf(solution.landmarks.embedding, solution.embedding_bandwidth, device)),
      metadata_(solution.kernel.metadata) {
    const auto intercept = solution.intercept.unsqueeze(0);
    if (!metadata_) {
        coefficients_ = prepared(solution.coefficients, device);
        offsets_ = prepared(intercept, device);
        return;
    }
    lengths_ = make_rbf(solution.landmarks.log_lengths, solution.length_bandwidth, device);
    const auto coefficients = solution.coefficients / 3.0;
    const std::int64_t sources = solution.landmarks.source.max().item<std::int64_t>() + 1;
    const auto sums = torch::zeros({sources + 1, coefficients.size(1)}, torch::kFloat64)
                          .index_add_(0, solution.landmarks.source, coefficients);
    coefficients_ = prepared(coefficients, device);
    offsets_ = prepared(sums + intercept, device);
}

torch::Tensor Propagator::operator()(const Features& samples) const {
    const std::int64_t rows = samples.embedding.size(0);
    auto influence = torch::empty({rows, coefficients_.size(1)}, torch::dtype(torch::kFloat32).device(device_));
    const auto block_of = [&](const torch::Tensor& values, std::int64_t first) {
        return values.narrow(0, first, std::min(block_rows, rows - first)).to(device_);
    };
    for (std::int64_t first = 0; first < rows; first += block_rows) {
        auto kernel = evaluate(embedding_, block_of(samples.embedding, first));
        auto offsets = offsets_;
        if (metadata_) {
            kernel.add_(evaluate(lengths_, block_of(samples.log_lengths, first)));
            const std::int64_t other = offsets_.size(0) - 1;
            offsets = offsets_.index_select(0, block_of(samples.source, first).clamp_max(other));
        }
        auto out = influence.narrow(0, first, kernel.size(0));
        torch::addmm_out(out, offsets, kernel, coefficients_);
    }
    return influence;
}

// Layout: nine numbers, then embedding, (source, log lengths,) coefficients, intercept, each row by row.
std::vector<double> pack(const Solution& solution) {
    const auto& landmarks = solution.landmarks;
    std::vector<double> packed = {static_cast<double>(landmarks.embedding.size(0)),
                                  static_cast<double>(landmarks.embedding.size(1)),
                                  static_cast<double>(solution.coefficients.size(1)),
                                  solution.kernel.metadata ? 1.0 : 0.0,
                                  solution.has_intercept ? 1.0 : 0.0,
                                  solution.damping,
                                  solution.embedding_bandwidth,
                                  solution.length_bandwidth,
                                  solution.kernel.bandwidth.value_or(0.0)};
    const auto append = [&packed](const torch::Tensor& values) {
        const auto flat = values.to(torch::kCPU, torch::kFloat64).contiguous();
        packed.insert(packed.end(), flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
    };
    append(landmarks.embedding);
    if (solution.kernel.metadata) {
        append(landmarks.source);
        append(landmarks.log_lengths);
    }
    append(solution.coefficients);
    append(solution.intercept);
    return packed;
}

Solution unpack(std::span<const double> packed) {
    std::size_t position = 0;
    const auto next = [&](std::size_t count) {
        if (packed.size() - position < count) {
            throw Error(ExitCode::internal_error,
                        {"propagation", "packed solution", std::to_string(position + count) + " values",
                         std::to_string(packed.size()), ""});
        }
        position += count;
        return packed.subspan(position - count, count);
    };
    const auto tensor = [&](const std::vector<std::int64_t>& shape, torch::ScalarType type) {
        auto values = torch::empty(shape, torch::kFloat64);
        const auto from = next(static_cast<std::size_t>(values.numel()));
        std::copy(from.begin(), from.end(), values.data_ptr<double>());
        return values.to(type);
    };
    const auto head = next(9);
    const auto rows = static_cast<std::int64_t>(head[0]);
    const auto columns = static_cast<std::int64_t>(head[2]);
    Solution solution;
    solution.kernel.metadata = head[3] != 0.0;
    solution.has_intercept = head[4] != 0.0;
    solution.damping = head[5];
    solution.embedding_bandwidth = head[6];
    solution.length_bandwidth = head[7];
    if (head[8] > 0.0) solution.kernel.bandwidth = head[8];
    solution.landmarks.embedding = tensor({rows, static_cast<std::int64_t>(head[1])}, torch::kFloat32);
    if (solution.kernel.metadata) {
        solution.landmarks.source = tensor({rows}, torch::kInt64);
        solution.landmarks.log_lengths = tensor({rows, 2}, torch::kFloat32);
    }
    solution.coefficients = tensor({rows, columns}, torch::kFloat64);
    solution.intercept = tensor({columns}, torch::kFloat64);
    return solution;
}

}  // namespace idistill::propagation
