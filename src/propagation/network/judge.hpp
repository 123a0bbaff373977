#pragma once
// How well a network predicts what it has not seen, beside what could be known without it.

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <vector>

#include "idistill/propagation/trust.hpp"
#include "split.hpp"

namespace idistill::propagation {

/// What is compared on the held-out pairs: the network; the mean of what is learnt; the line in the cosine of the
/// embeddings that is nearest to it; the mean of the sample's labels, and of the target's, on what is learnt from, both
/// of which need labels that no other sample of the pool has.
inline constexpr std::array<const char*, 5> predictors{"network", "constant", "cosine", "sample mean", "target mean"};

/// Of every predictor; NaN where it is undefined.
struct Agreement {
    std::vector<double> error;  ///< mean squared
    std::vector<double> r2;
    std::vector<double> spearman;
    std::int64_t pairs = 0;
};

/// What is judged: labels (n x C) with the embeddings of both sides, or without columns of samples alone.
struct Judged {
    const torch::Tensor& labels;     ///< (n x C) fp32
    const torch::Tensor& rows;       ///< (n x e)
    const torch::Tensor& columns;    ///< (C x e); undefined: samples alone
    const torch::Tensor& predicted;  ///< (held-out rows x C)
    const Split& split;
    const std::vector<std::int64_t>& labelled;  ///< (C) as split_samples takes it
};

Agreement agreement(const Judged& judged);

/// By the held-out samples, on all columns but themselves: also those that are learnt from, as samples of the pool are.
/// R2 within source is that of the differences from the mean of the held-out samples of a source. The source's name
/// alone predicts the mean of those of its samples that are learnt from. `source` (n).
Trust held_out_trust(const Judged& judged, const std::vector<std::int32_t>& of_column, std::int32_t tasks,
                     const std::vector<std::int32_t>& source);

}  // namespace idistill::propagation
