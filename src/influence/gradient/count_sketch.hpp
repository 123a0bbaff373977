#pragma once
// Count sketches of rows and of matrices (Charikar, Chen and Farach-Colton, ICALP 2002).

#include <torch/types.h>

#include <cstdint>

#include "idistill/base/philox.hpp"
#include "idistill/model/kernels.hpp"

namespace idistill::influence {

/// Number i goes to bucket[i] with sign[i]; fp32 on a CPU in one pass over the rows, tensor operations in other types;
/// on a device bucket by bucket, without scattering.
struct CountSketch {
    /// Of `width` numbers into so many `buckets`, from the counters of `random` alone; signs as `options`.
    CountSketch(const Philox& random, std::int64_t width, std::int64_t buckets, const torch::TensorOptions& options);

    /// (rows x length), in at least fp32, of rows (rows x width).
    [[nodiscard]] torch::Tensor of_rows(const torch::Tensor& rows) const;

    std::int64_t length;
    torch::Tensor bucket;    ///< (width), int64, below length
    torch::Tensor sign;      ///< (width), 1 or -1
    model::Buckets columns;  ///< of both; on a CPU undefined
};

/// (length) of a matrix (outputs x inputs): entry (o, i) goes to bucket (outputs.bucket[o] + inputs.bucket[i]) modulo
/// the length both have, with the product of the signs.
torch::Tensor count_sketch_of_matrix(const CountSketch& outputs, const CountSketch& inputs,
                                     const torch::Tensor& matrix);

}  // namespace idistill::influence
