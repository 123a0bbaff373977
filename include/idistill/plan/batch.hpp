#pragma once
// The largest micro-batch that a stage meets, from lengths alone: activations follow from it. Pure.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "idistill/data/work_unit.hpp"

namespace idistill::plan {

/// What a pass reads of a sample, and how many of these tokens predict a label.
struct Length {
    std::int64_t tokens = 0;
    std::int64_t labels = 0;
};

/// The most of everything: not all of one micro-batch.
struct Batch {
    std::int64_t rows = 0;    ///< samples of a unit
    std::int64_t tokens = 0;  ///< of a micro-batch, as the following
    std::int64_t samples = 0;
    std::int64_t labels = 0;
    std::int64_t longest = 0;  ///< tokens of a sample
};

/// Bytes of a pass.
struct PassBytes {
    double activations = 0;  ///< in the numbers that a rank computes with, counted as fp32
    double fp32 = 0;         ///< in fp32 on every device: logits, what becomes sketches

    [[nodiscard]] double together() const { return activations + fp32; }
};
/// The larger one: these passes follow each other.
[[nodiscard]] inline PassBytes larger(const PassBytes& a, const PassBytes& b) {
    return a.together() < b.together() ? b : a;
}

/// Lengths of the samples of a unit that are computed.
using LengthsOf = std::function<std::vector<Length>(const data::WorkUnit&)>;

/// A micro-batch has at most `batch_tokens` tokens or one sample, and never crosses a unit.
Batch largest_batch(std::span<const data::WorkUnit> units, std::int64_t batch_tokens, const LengthsOf& lengths);

/// The same where only the most rows of a unit and the longest sample are known.
Batch any_batch(std::int64_t rows, std::int64_t batch_tokens, std::int64_t longest);

}  // namespace idistill::plan
