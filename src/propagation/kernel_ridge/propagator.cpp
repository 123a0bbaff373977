#include <algorithm>
#include <exception>

#include "idistill/model/cuda.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/propagation/kernel_ridge.hpp"

namespace idistill::propagation {
namespace {

// Rows whose kernel is held at a time: on a CPU that of 1024 landmarks then fits into a 2 MB cache.
std::int64_t block_rows_on(torch::Device device) { return device.is_cpu() ? 512 : 16'384; }

/// Calls body(first, count) for blocks of at most so many rows, of half as many from where a GPU's memory ends.
template <class Body>
void for_each_block(std::int64_t rows, std::int64_t most, Body&& body) {
    for (std::int64_t first = 0; first < rows;) {
        const auto count = std::min(most, rows - first);
        try {
            body(first, count);
            first += count;
        } catch (const std::exception& error) {
            if (count == 1 || !model::is_out_of_memory(error)) throw;
            model::cuda::give_back_unused();
            most = (count + 1) / 2;
        }
    }
}

torch::Tensor prepared(const torch::Tensor& values, torch::Device device) {
    return values.to(device, torch::kFloat32).contiguous();
}

}  // namespace

Propagator::Rbf Propagator::make_rbf(const torch::Tensor& points, double bandwidth, torch::Device device) {
    const auto centre = points.mean(0, true, torch::kFloat64).to(torch::kFloat32);
    const auto centred = points - centre;  // in fp32, as the samples will be
    auto squares = torch::empty({points.size(0)}, torch::kFloat64);
    for (std::int64_t i = 0; i < points.size(0); ++i) squares[i] = centred[i].to(torch::kFloat64).square().sum();
    const double precision = 1.0 / (bandwidth * bandwidth);
    return {prepared(centre, device), prepared(centred, device).t(),
            prepared(squares.mul(-0.5 * precision).unsqueeze(0), device), precision};
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
    : device_(device), widths_(solution.kernel.widths), metadata_(solution.kernel.metadata) {
    const auto& points = solution.landmarks.embedding;
    const auto& bandwidths = solution.embedding_bandwidths;
    if (widths_.empty()) widths_ = {points.size(1)};
    if (solution.kernel.product) {  // the RBF of all numbers, each over its bandwidth
        auto scale = torch::empty({1, points.size(1)}, torch::kFloat32);
        std::int64_t first = 0;
        for (std::size_t i = 0; i < widths_.size(); first += widths_[i++])
            scale.narrow(1, first, widths_[i]).fill_(1.0 / bandwidths[i]);
        embeddings_.push_back(make_rbf(points * scale, 1.0, device));
        scale_ = prepared(scale, device);
    } else {
        const auto parts = points.split_with_sizes(widths_, 1);
        for (std::size_t i = 0; i < parts.size(); ++i) embeddings_.push_back(make_rbf(parts[i], bandwidths[i], device));
    }
    const auto coefficients = solution.coefficients / static_cast<double>(embeddings_.size() + (metadata_ ? 2 : 0));
    const auto intercept = solution.intercept.unsqueeze(0);
    coefficients_ = prepared(coefficients, device);
    offsets_ = prepared(intercept, device);
    if (!metadata_) return;
    lengths_ = make_rbf(solution.landmarks.log_lengths, solution.length_bandwidth, device);
    const std::int64_t sources = solution.landmarks.source.max().item<std::int64_t>() + 1;
    const auto sums = torch::zeros({sources + 1, coefficients.size(1)}, torch::kFloat64)
                          .index_add_(0, solution.landmarks.source, coefficients);
    offsets_ = prepared(sums + intercept, device);
}

torch::Tensor Propagator::embedding_kernel(const torch::Tensor& rows) const {
    if (scale_.defined()) return evaluate(embeddings_[0], rows * scale_);
    const auto parts = rows.split_with_sizes(widths_, 1);
    auto kernel = evaluate(embeddings_[0], parts[0]);
    for (std::size_t i = 1; i < parts.size(); ++i) kernel.add_(evaluate(embeddings_[i], parts[i]));
    return kernel;
}

torch::Tensor Propagator::operator()(const Features& samples) const {
    const std::int64_t rows = samples.embedding.size(0);
    auto influence = torch::empty({rows, coefficients_.size(1)}, torch::dtype(torch::kFloat32).device(device_));
    const auto embedding = samples.embedding.to(device_);
    const auto log_lengths = metadata_ ? samples.log_lengths.to(device_) : torch::Tensor();
    const auto source = metadata_ ? samples.source.to(device_).clamp_max(offsets_.size(0) - 1) : torch::Tensor();
    for_each_block(rows, block_rows_on(device_), [&](std::int64_t first, std::int64_t count) {
        const auto block_of = [&](const torch::Tensor& values) { return values.narrow(0, first, count); };
        auto kernel = embedding_kernel(block_of(embedding));
        auto offsets = offsets_;
        if (metadata_) {
            kernel.add_(evaluate(lengths_, block_of(log_lengths)));
            offsets = offsets_.index_select(0, block_of(source));
        }
        auto out = influence.narrow(0, first, kernel.size(0));
        torch::addmm_out(out, offsets, kernel, coefficients_);
    });
    return influence;
}

}  // namespace idistill::propagation
