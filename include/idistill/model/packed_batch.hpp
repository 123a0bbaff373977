#pragma once
// Samples side by side without padding: linear layers see one tall matrix, attention sees each sample alone.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "idistill/data/token_file.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/padding.hpp"

namespace idistill::model {

/// Rows of n samples, one sample after the other: sample i is rows [offsets[i], offsets[i+1]).
struct SampleRows {
    std::vector<std::int64_t> offsets;                 ///< (n + 1)
    std::shared_ptr<const Padding> padding = nullptr;  ///< null: samples are computed one after the other
    [[nodiscard]] std::int64_t samples() const noexcept { return static_cast<std::int64_t>(offsets.size()) - 1; }
    [[nodiscard]] std::int64_t rows() const noexcept { return offsets.back(); }
};

/// T tokens of n samples, concatenated.
struct PackedBatch : SampleRows {
    torch::Tensor tokens;        ///< (T) int64
    Decoder::Rotation rotation;  ///< of every token's position in its sample
};

/// Some rows of a packed batch, ascending: the queries of a block of which only these outputs are needed.
/// Sample i has the entries [offsets[i], offsets[i+1]) of `position` (position within its sample) and `index` (row).
struct RowSubset : SampleRows {
    std::vector<std::int64_t> position;
    torch::Tensor index;  ///< (R) int64; undefined: every row of the batch
};

/// The given samples of `samples`, each cut to lengths[i] tokens (at most its own length).
PackedBatch pack(const Decoder& decoder, const data::Samples& samples, const std::vector<std::int64_t>& chosen,
                 const std::vector<std::int64_t>& lengths);

/// Every row of the batch.
RowSubset all_rows(const PackedBatch& batch);
/// The given positions of every sample (ascending within a sample).
RowSubset rows_at(const PackedBatch& batch, const std::vector<std::vector<std::int64_t>>& positions);
/// The last row of every sample.
RowSubset last_rows(const PackedBatch& batch);

/// rows of x (T x ...) in the subset; x itself when the subset is everything.
torch::Tensor take_rows(const torch::Tensor& x, const RowSubset& rows);

}  // namespace idistill::model
