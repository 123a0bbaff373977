#include "idistill/model/random.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace idistill::model {

using torch::Tensor;

Tensor gaussian(const Philox& random, std::int64_t rows, std::int64_t columns, double scale,
                const torch::TensorOptions& options) {
    auto matrix = at::empty({rows, columns}, at::TensorOptions().dtype(torch::kFloat32));
    auto* value = matrix.mutable_data_ptr<float>();
    const auto factor = static_cast<float>(scale);
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < columns; c += 2) {
            const auto pair = random.normals(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(c / 2));
            *value++ = pair[0] * factor;
            if (c + 1 < columns) *value++ = pair[1] * factor;
        }
    }
    return matrix.to(options);
}

Tensor signs(const Philox& random, data::RowRange rows, std::int64_t columns, double scale,
             const torch::TensorOptions& options) {
    auto matrix = at::empty({rows.count, columns}, at::TensorOptions().dtype(torch::kFloat32));
    auto* value = matrix.mutable_data_ptr<float>();
    const auto factor = static_cast<float>(scale);
    for (std::int64_t r = rows.first; r < rows.end(); ++r) {
        for (std::int64_t c = 0; c < columns; c += 128) {  // as many bits as one call of the generator gives
            const auto words = random.words(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(c / 128));
            const std::int64_t bits = std::min<std::int64_t>(128, columns - c);
            for (std::int64_t bit = 0; bit < bits; ++bit)
                *value++ = ((words[static_cast<std::size_t>(bit / 32)] >> (bit % 32)) & 1U) != 0 ? factor : -factor;
        }
    }
    return matrix.to(options);
}

}  // namespace idistill::model
