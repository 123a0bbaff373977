#include "count_sketch.hpp"

#include <ATen/ATen.h>

#include "idistill/model/precision.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;

bool in_one_pass(const Tensor& x) { return x.is_cpu() && x.scalar_type() == torch::kFloat32; }

/// sketch[bucket[i]] += sign[i] row[i].
void add_row(const CountSketch& map, const float* row, float* sketch) {
    const auto* bucket = map.bucket.const_data_ptr<std::int64_t>();
    const auto* sign = map.sign.const_data_ptr<float>();
    for (std::int64_t i = 0; i < map.bucket.numel(); ++i) sketch[bucket[i]] += sign[i] * row[i];
}

}  // namespace

CountSketch::CountSketch(const Philox& random, std::int64_t width, std::int64_t buckets,
                         const at::TensorOptions& options)
    : length(buckets),
      bucket(at::empty({width}, at::TensorOptions().dtype(torch::kInt64))),
      sign(at::empty({width}, at::TensorOptions().dtype(torch::kFloat32))) {
    for (std::int64_t i = 0; i < width; ++i) {
        const auto column = static_cast<std::uint64_t>(i);
        bucket.mutable_data_ptr<std::int64_t>()[i] =
            static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(length), 0, column));
        sign.mutable_data_ptr<float>()[i] = (random.words(1, column)[0] & 1U) != 0 ? 1.0F : -1.0F;
    }
    bucket = bucket.to(options.device());
    sign = sign.to(options);
    if (!options.device().is_cpu()) columns = model::by_bucket(bucket, sign, length);
}

Tensor CountSketch::of_rows(const Tensor& rows) const {
    if (columns.order.defined()) return model::bucket_sums(rows, columns);
    auto sketches = at::zeros({rows.size(0), length}, model::accumulating(rows.options()));
    if (!in_one_pass(rows)) return sketches.index_add_(1, bucket, rows * sign);
    const auto dense = rows.contiguous();
    for (std::int64_t row = 0; row < rows.size(0); ++row)
        add_row(*this, dense.const_data_ptr<float>() + row * rows.size(1),
                sketches.mutable_data_ptr<float>() + row * length);
    return sketches;
}

Tensor count_sketch_of_matrix(const CountSketch& outputs, const CountSketch& inputs, const Tensor& matrix) {
    const auto length = inputs.length;
    // Buckets before the modulus, once of rows that count and once of rows that count negative.
    auto sums = at::zeros({2, 2 * length}, matrix.options());
    if (in_one_pass(matrix)) {
        const auto dense = matrix.contiguous();
        for (std::int64_t o = 0; o < matrix.size(0); ++o)
            add_row(inputs, dense.const_data_ptr<float>() + o * matrix.size(1),
                    sums.mutable_data_ptr<float>() + outputs.bucket.const_data_ptr<std::int64_t>()[o] +
                        (outputs.sign.const_data_ptr<float>()[o] > 0 ? 0 : 2 * length));
    } else {
        const auto buckets = outputs.bucket.unsqueeze(1) + inputs.bucket;
        sums[0].index_add_(0, buckets.view({-1}), (matrix * outputs.sign.unsqueeze(1) * inputs.sign).view({-1}));
    }
    return (sums[0] - sums[1]).view({2, length}).sum(0);
}

}  // namespace idistill::influence
