#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "idistill/propagation/influence_network.hpp"
#include "kernels.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t numbers_at_once = std::int64_t{1} << 20;  // hidden numbers of pairs that a deep network holds

double real(std::int64_t value) { return static_cast<double>(value); }

/// (outputs, inputs) of every layer.
std::vector<std::pair<std::int64_t, std::int64_t>> sizes_of(const NetworkShape& shape) {
    std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{shape.width, shape.inputs()}};
    for (std::int64_t layer = 1; layer < shape.depth; ++layer) sizes.emplace_back(shape.width, shape.width);
    sizes.emplace_back(shape.outputs, shape.width);
    return sizes;
}

/// FLOPs of the layers behind the first.
double deeper_flops(const NetworkShape& shape) {
    return 2.0 * real((shape.depth - 1) * shape.width * shape.width + shape.outputs * shape.width);
}

Tensor doubles(const Tensor& values) { return values.to(torch::kFloat64); }
Tensor floats(const Tensor& values) { return values.to(torch::kFloat32).contiguous(); }

Tensor of_length_one(const Tensor& embedding) {
    return embedding / embedding.norm(2, {1}, true).clamp_min(std::numeric_limits<float>::min());
}

/// (n x 1) true for an embedding that is not finite.
Tensor unusable_rows(const Tensor& embedding) { return at::isfinite(embedding).all(1, true).logical_not_(); }

}  // namespace

std::int64_t NetworkShape::parameters() const {
    std::int64_t sum = 0;
    for (const auto& [rows, columns] : sizes_of(*this)) sum += rows * (columns + 1);
    return sum;
}

double NetworkShape::learning_flops() const {
    const double first = 4.0 * real(inputs() * width), deeper = 3.0 * deeper_flops(*this);
    return (symmetric ? 2.0 : 1.0) * (first + deeper);
}

double NetworkShape::half_flops() const {
    return 2.0 * real(embedding * width) * (symmetric ? 2.0 : 1.0) + (pairs ? 0.0 : deeper_flops(*this));
}

double NetworkShape::pair_flops() const {
    return (symmetric ? 2.0 : 1.0) * (2.0 * real(width) + deeper_flops(*this)) + (residual ? 2.0 * real(embedding) : 0);
}

NetworkLayers layers_of(const NetworkShape& shape, const Tensor& parameters) {
    NetworkLayers layers;
    std::int64_t first = 0;
    const auto take = [&](std::int64_t count) {
        return parameters.narrow(0, std::exchange(first, first + count), count);
    };
    for (const auto& [rows, columns] : sizes_of(shape)) {
        layers.weight.push_back(take(rows * columns).view({rows, columns}));
        layers.bias.push_back(take(rows));
    }
    return layers;
}

InfluenceNetwork::InfluenceNetwork(const NetworkShape& shape, const Tensor& parameters, const NetworkScaling& scaling)
    : shape_(shape), slope_(scaling.slope) {
    const auto layers = layers_of(shape, parameters);
    const auto side = [&](std::int64_t place) {
        const auto own = layers.weight[0].narrow(1, place * shape.embedding, shape.embedding);
        return floats((doubles(own) / scaling.length).t());
    };
    first_ = side(0);
    if (shape.pairs) second_ = side(1);
    first_bias_ = layers.bias[0].clone();
    for (std::size_t layer = 1; layer < layers.weight.size(); ++layer) {
        auto w = doubles(layers.weight[layer]), b = doubles(layers.bias[layer]);
        if (layer + 1 == layers.weight.size()) {
            const auto gain = at::tensor(scaling.gain, at::TensorOptions().dtype(torch::kFloat64));
            w = w * gain.unsqueeze(1);
            b = b * gain + at::tensor(scaling.offset, at::TensorOptions().dtype(torch::kFloat64));
        }
        weight_.push_back(floats(w.t()));
        bias_.push_back(floats(b));
    }
    if (shape.pairs && shape.depth == 1) {
        const auto w = weight_[0].view({-1});
        output_ = shape.symmetric ? at::cat({0.5 * w, 0.5 * w}) : w;
        output_bias_ = bias_[0].item<float>();
    }
}

std::int64_t InfluenceNetwork::half_width() const {
    return (shape_.symmetric ? 2 : 1) * shape_.width + (shape_.residual ? shape_.embedding : 0);
}

Tensor InfluenceNetwork::left(const Tensor& embedding) const {
    auto made = half(embedding, first_, second_);
    made.narrow(1, 0, shape_.width).add_(first_bias_);
    if (shape_.symmetric) made.narrow(1, shape_.width, shape_.width).add_(first_bias_);
    return made;
}

Tensor InfluenceNetwork::right(const Tensor& embedding) const { return half(embedding, second_, first_); }

/// [first, where symmetric also second, with a residual also the unit vector].
Tensor InfluenceNetwork::half(const Tensor& embedding, const Tensor& first, const Tensor& second) const {
    auto made = at::empty({embedding.size(0), half_width()}, embedding.options());
    made.narrow(1, 0, shape_.width).copy_(at::mm(embedding, first));
    if (shape_.symmetric) made.narrow(1, shape_.width, shape_.width).copy_(at::mm(embedding, second));
    if (shape_.residual)
        made.narrow(1, half_width() - shape_.embedding, shape_.embedding).copy_(of_length_one(embedding));
    return made.masked_fill_(unusable_rows(embedding), unknown);
}

Tensor InfluenceNetwork::scores(const Tensor& left, const Tensor& right) const {
    const auto rows = left.size(0), columns = right.size(0);
    const auto hidden = half_width() - (shape_.residual ? shape_.embedding : 0);
    auto made = at::zeros({rows, columns}, left.options());
    if (made.numel() == 0) return made;
    if (shape_.residual) {
        const auto unit = [&](const Tensor& half) { return half.narrow(1, hidden, shape_.embedding); };
        at::addmm_out(made, made, unit(left), unit(right).t(), 0.0, slope_);
    }
    if (shape_.depth > 1) return made.add_(deep_scores(left, right));
    const auto halves = [&](const Tensor& half) {
        return cpu::Halves{half.const_data_ptr<float>(), half.size(0), half.stride(0)};
    };
    cpu::add_pair_scores(halves(left), halves(right), output_.const_data_ptr<float>(), output_bias_, hidden,
                         made.mutable_data_ptr<float>());
    return made;
}

void InfluenceNetwork::tile_scores(std::span<const float> left, std::int64_t stride, std::span<const float> right,
                                   std::span<float> out) const {
    static_assert(tile_lanes == cpu::tile_lanes);
    cpu::tile_scores({left.data(), std::ssize(left) / stride, stride}, right.data(), output_.const_data_ptr<float>(),
                     output_bias_, half_width(), out.data());
}

/// The layers behind the first one's sums (n x H).
Tensor InfluenceNetwork::deeper(Tensor hidden) const {
    for (std::size_t layer = 0; layer < weight_.size(); ++layer)
        hidden = at::addmm(bias_[layer], hidden.relu_(), weight_[layer]);
    return hidden;
}

Tensor InfluenceNetwork::deep_scores(const Tensor& left, const Tensor& right) const {
    const auto rows = left.size(0), columns = right.size(0), width = shape_.width;
    auto made = at::empty({rows, columns}, left.options());
    const auto at_once = std::max<std::int64_t>(1, numbers_at_once / width);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t first = 0; first < columns; first += at_once) {
            const auto count = std::min(at_once, columns - first);
            const auto way = [&](std::int64_t side) {
                return deeper(right.narrow(0, first, count).narrow(1, side * width, width) +
                              left.narrow(0, row, 1).narrow(1, side * width, width))
                    .squeeze(1);
            };
            auto own = way(0);
            if (shape_.symmetric) own = 0.5 * (own + way(1));
            made.select(0, row).narrow(0, first, count).copy_(own);
        }
    }
    return made;
}

Tensor InfluenceNetwork::of_samples(const Tensor& embedding) const {
    return deeper(at::addmm(first_bias_, embedding, first_)).masked_fill_(unusable_rows(embedding), unknown);
}

}  // namespace idistill::propagation
