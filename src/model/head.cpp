#include "head.hpp"

#include <ATen/ATen.h>

namespace idistill::model {
namespace {

/// For fewer rows matrix libraries add a product one number after the other: over a whole vocabulary ten times the
/// rounding, which is then in every gradient.
constexpr std::int64_t fewest_rows = 8;

}  // namespace

using torch::Tensor;

LabelRows label_rows(const Tensor& like, const LossLabels& labels, const Tensor& sample_scale) {
    const auto host = at::TensorOptions().dtype(torch::kInt64);
    const auto counts = at::tensor(labels.counts, host).to(like.device());
    LabelRows rows;
    rows.sample = at::repeat_interleave(counts);
    rows.mean = at::reciprocal(counts.to(like.scalar_type())).index_select(0, rows.sample);
    rows.scale = sample_scale.defined() ? rows.mean * sample_scale.index_select(0, rows.sample) : rows.mean;
    return rows;
}

Tensor head_backward(const Decoder& decoder, const Tensor& logits_gradient) {
    const auto rows = logits_gradient.size(0);
    if (rows >= fewest_rows) return at::mm(logits_gradient, decoder.head());
    const auto padded = at::constant_pad_nd(logits_gradient, {0, 0, 0, fewest_rows - rows});
    return at::mm(padded, decoder.head()).narrow(0, 0, rows);
}

}  // namespace idistill::model
