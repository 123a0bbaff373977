#pragma once
// What the passes share at the head: how rows of logits count, and chunks of them.

#include <torch/types.h>

#include <algorithm>
#include <cstdint>

#include "idistill/model/cost.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::model {

/// One entry (R) for every position that predicts a label, samples in order.
struct LabelRows {
    torch::Tensor sample;  ///< int64, which sample of the batch it belongs to
    torch::Tensor mean;    ///< 1 / label tokens of the sample
    torch::Tensor scale;   ///< the same times the sample's scale
};
/// On the device of `like`, in its accumulate type; sample_scale (n; undefined: ones).
LabelRows label_rows(const torch::Tensor& like, const LossLabels& labels, const torch::Tensor& sample_scale);

/// Logits (R x vocabulary) of final-normed hidden states (R x d), in the accumulate type.
torch::Tensor head_forward(const Decoder& decoder, const torch::Tensor& hidden);

/// Gradient (R x d) of the final-normed hidden state from that of the logits (R x vocabulary).
torch::Tensor head_backward(const Decoder& decoder, const torch::Tensor& logits_gradient);

/// Calls body(first row, rows) for all of `rows` rows of logits.
template <class Body>
void for_each_logit_chunk(const Decoder& decoder, std::int64_t rows, Body&& body) {
    const auto bytes = decoder.head().is_cpu() ? logits_bytes : device_logits_bytes;
    const auto chunk = std::max(logits_rows, bytes / (decoder.head().size(0) * std::int64_t{sizeof(float)}));
    for (std::int64_t first = 0; first < rows; first += chunk) body(first, std::min(chunk, rows - first));
}

}  // namespace idistill::model
