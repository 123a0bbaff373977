#include "idistill/model/precision.hpp"

#include <ATen/ATen.h>

namespace idistill::model {
namespace {

bool narrow(const torch::Tensor& x) { return accumulate_type(x.scalar_type()) != x.scalar_type(); }

}  // namespace

torch::ScalarType accumulate_type(torch::ScalarType type) { return at::promote_types(type, torch::kFloat32); }

torch::TensorOptions accumulating(const torch::TensorOptions& options) {
    return options.dtype(accumulate_type(options.dtype().toScalarType()));
}

torch::Tensor widened(const torch::Tensor& x) { return x.to(accumulate_type(x.scalar_type())); }

// Only CUDA multiplies 16-bit numbers into 32-bit sums.

torch::Tensor wide_mm(const torch::Tensor& x, const torch::Tensor& y) {
    if (narrow(x) && x.is_cuda()) return at::mm(x, y, torch::kFloat32);
    return at::mm(widened(x), widened(y));
}

torch::Tensor wide_bmm(const torch::Tensor& x, const torch::Tensor& y) {
    if (narrow(x) && x.is_cuda()) return at::bmm(x, y, torch::kFloat32);
    return at::bmm(widened(x), widened(y));
}

void add_product_(const torch::Tensor& into, const torch::Tensor& x, const torch::Tensor& y) {
    const bool batches = into.dim() == 3;
    if (into.scalar_type() == y.scalar_type())
        batches ? into.baddbmm_(x, y) : into.addmm_(x, y);
    else
        into.add_((batches ? wide_bmm : wide_mm)(x.to(y.scalar_type()), y));
}

}  // namespace idistill::model
