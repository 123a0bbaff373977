#include "head.hpp"

#include <ATen/ATen.h>

#include "idistill/model/precision.hpp"

namespace idistill::model {
namespace {

/// For fewer rows matrix libraries add a product one number after the other: over a whole vocabulary ten times the
/// rounding, which is then in every gradient.
constexpr std::int64_t fewest_rows = 8;

}  // namespace

using torch::Tensor;

LabelRows label_rows(const Tensor& like, const LossLabels& labels, const Tensor& sample_scale) {
    const auto counts = on_device(labels.counts, like.device());
    LabelRows rows;
    rows.sample = at::repeat_interleave(counts, std::optional<std::int64_t>(labels.predictors.rows()));
    rows.mean = at::reciprocal(counts.to(accumulate_type(like.scalar_type()))).index_select(0, rows.sample);
    rows.scale = sample_scale.defined() ? rows.mean * sample_scale.index_select(0, rows.sample) : rows.mean;
    return rows;
}

Tensor head_forward(const Decoder& decoder, const Tensor& hidden) { return wide_mm(hidden, decoder.head().t()); }

Tensor head_backward(const Decoder& decoder, const Tensor& wide_gradient) {
    const auto logits_gradient = wide_gradient.to(decoder.head().scalar_type());
    const auto rows = logits_gradient.size(0);
    if (rows >= fewest_rows) return at::mm(logits_gradient, decoder.head());
    const auto padded = at::constant_pad_nd(logits_gradient, {0, 0, 0, fewest_rows - rows});
    return at::mm(padded, decoder.head()).narrow(0, 0, rows);
}

}  // namespace idistill::model
