#include "idistill/influence/gradient/sketch.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "idistill/base/error.hpp"
#include "idistill/base/philox.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/model/precision.hpp"
#include "idistill/model/random.hpp"
#include "tensor_sketch.hpp"

namespace idistill::influence {
namespace {

using model::LayerTap;
using model::LinearLayer;
using torch::Tensor;

class Kronecker final : public GradientSketch {
public:
    Kronecker(const std::vector<LinearLayer>& layers, std::int64_t width, std::uint64_t seed,
              const at::TensorOptions& options)
        : side_(static_cast<std::int64_t>(
              std::llround(std::sqrt(static_cast<double>(width) / static_cast<double>(layers.size()))))) {
        const double scale = 1.0 / std::sqrt(static_cast<double>(side_));
        for (const auto& layer : layers) {
            const auto wide = model::accumulating(options);
            left_.push_back(model::gaussian({seed, "kronecker left", layer.name}, layer.outputs, side_, scale, wide));
            right_.push_back(model::gaussian({seed, "kronecker right", layer.name}, layer.inputs, side_, scale, wide));
        }
    }
    [[nodiscard]] std::int64_t width() const override {
        return static_cast<std::int64_t>(left_.size()) * side_ * side_;
    }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override { return std::nullopt; }

    void accumulate(const LayerTap& tap, Tensor& sketches) const override {
        const auto outputs = at::mm(model::widened(tap.output_gradient), left_[tap.layer]);
        const auto inputs = at::mm(model::widened(tap.input), right_[tap.layer]);
        const auto area = side_ * side_;
        if (tap.padding != nullptr) {
            const auto own = at::bmm(tap.padding->zero_filled(outputs).transpose(1, 2), tap.padding->repeated(inputs));
            sketches.narrow(1, static_cast<std::int64_t>(tap.layer) * area, area).add_(own.flatten(1));
            return;
        }
        for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
            sketches.select(0, i)
                .narrow(0, static_cast<std::int64_t>(tap.layer) * area, area)
                .view({side_, side_})
                .addmm_(outputs.narrow(0, first, rows).t(), inputs.narrow(0, first, rows));
        });
    }

    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        const auto area = side_ * side_;
        const auto left = left_[layer].t().to(gradients.scalar_type());
        const auto right = right_[layer].to(gradients.scalar_type());
        if (!gradients.is_cpu()) {
            const auto halves =
                at::mm(gradients.flatten(0, 1), right).view({gradients.size(0), gradients.size(1), side_});
            sketches.narrow(1, static_cast<std::int64_t>(layer) * area, area).add_(at::matmul(left, halves).flatten(1));
            return;
        }
        for (std::int64_t i = 0; i < gradients.size(0); ++i)
            sketches.select(0, i)
                .narrow(0, static_cast<std::int64_t>(layer) * area, area)
                .view({side_, side_})
                .addmm_(left, at::mm(gradients.select(0, i), right));
    }

private:
    std::int64_t side_;
    std::vector<Tensor> left_, right_;
};

/// Orthonormal fast Walsh-Hadamard transform of the last dimension (a power of two).
Tensor hadamard_transform(Tensor x) {
    const auto length = x.size(-1);
    for (std::int64_t half = 1; half < length; half *= 2) {
        const auto pairs = x.view({-1, length / (2 * half), 2, half});
        x = at::stack({pairs.select(2, 0) + pairs.select(2, 1), pairs.select(2, 0) - pairs.select(2, 1)}, 2)
                .view({-1, length});
    }
    return x.mul_(1.0 / std::sqrt(static_cast<double>(length)));
}

class Hadamard final : public GradientSketch {
public:
    Hadamard(const std::vector<LinearLayer>& layers, std::int64_t width, std::uint64_t seed,
             const at::TensorOptions& options)
        : width_(width) {
        const auto count = static_cast<std::int64_t>(layers.size());
        std::int64_t offset = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            const auto& layer = layers[static_cast<std::size_t>(i)];
            const auto entries = layer.outputs * layer.inputs;
            Part part;
            part.offset = offset;
            part.width = width / count + (i < width % count ? 1 : 0);
            part.padded = padded_entries(layer);
            part.signs =
                model::signs({seed, "hadamard sign", layer.name}, {0, 1}, entries, 1.0, model::accumulating(options));
            part.entries = distinct({seed, "hadamard entry", layer.name}, part.width, part.padded).to(options.device());
            offset += part.width;
            parts_.push_back(std::move(part));
        }
    }
    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override {
        std::vector<std::int64_t> lengths;
        for (const auto& part : parts_) lengths.push_back(part.width);
        return lengths;
    }

    void accumulate(const LayerTap& tap, Tensor& sketches) const override {
        for_each_dense(tap, {}, 1, [&](std::int64_t first, const Tensor& gradients) {
            accumulate_dense(tap.layer, gradients, sketches.narrow(0, first, gradients.size(0)));
        });
    }

    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        const auto& part = parts_[layer];
        const auto most = gradients.is_cpu() ? 1 : std::max<std::int64_t>(1, device_numbers / part.padded);
        const double scale = std::sqrt(static_cast<double>(part.padded) / static_cast<double>(part.width));
        for (std::int64_t first = 0; first < gradients.size(0); first += most) {
            const auto count = std::min(most, gradients.size(0) - first);
            const auto flipped = gradients.narrow(0, first, count).flatten(1) * part.signs;
            const auto transformed =
                hadamard_transform(at::constant_pad_nd(flipped, {0, part.padded - flipped.size(1)}));
            sketches.narrow(0, first, count)
                .narrow(1, part.offset, part.width)
                .add_(transformed.index_select(1, part.entries), scale);
        }
    }

private:
    struct Part {
        std::int64_t offset = 0, width = 0, padded = 0;
        Tensor signs, entries;
    };

    /// Of gradients that a device transforms at a time.
    static constexpr std::int64_t device_numbers = std::int64_t{1} << 26;

    /// `count` distinct numbers below `bound`: the smallest by a random 64-bit key.
    static Tensor distinct(const Philox& random, std::int64_t count, std::int64_t bound) {
        std::vector<std::pair<std::uint64_t, std::int64_t>> keyed(static_cast<std::size_t>(bound));
        for (std::int64_t i = 0; i < bound; ++i) {
            const auto words = random.words(static_cast<std::uint64_t>(i), 0);
            keyed[static_cast<std::size_t>(i)] = {(std::uint64_t{words[0]} << 32U) | words[1], i};
        }
        std::nth_element(keyed.begin(), keyed.begin() + (count - 1), keyed.end());
        std::sort(keyed.begin(), keyed.begin() + count);
        std::vector<std::int64_t> chosen;
        for (std::int64_t i = 0; i < count; ++i) chosen.push_back(keyed[static_cast<std::size_t>(i)].second);
        return at::tensor(chosen, at::TensorOptions().dtype(torch::kInt64));
    }

    std::int64_t width_;
    std::vector<Part> parts_;
};

/// The signs are never held whole: a block of their rows is made for as many samples as fit into memory.
class Rademacher final : public GradientSketch {
public:
    Rademacher(const std::vector<LinearLayer>& layers, std::int64_t width, std::uint64_t seed) : width_(width) {
        for (const auto& layer : layers) random_.emplace_back(seed, "rademacher", layer.name);
    }
    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override {
        return std::vector<std::int64_t>{width_};
    }

    void accumulate(const LayerTap& tap, Tensor& sketches) const override {
        for_each_dense(tap, {}, samples_at_once(gradient_bytes(tap)), [&](std::int64_t first, const Tensor& gradients) {
            accumulate_dense(tap.layer, gradients, sketches.narrow(0, first, gradients.size(0)));
        });
    }

    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        const auto flat = gradients.flatten(1);
        const auto sign_rows = std::max<std::int64_t>(1, rademacher_sign_bytes / (flat.size(1) * flat.element_size()));
        const double scale = 1.0 / std::sqrt(static_cast<double>(width_));
        for (std::int64_t row = 0; row < width_; row += sign_rows) {
            const data::RowRange rows{row, std::min(sign_rows, width_ - row)};
            const auto signs = model::signs(random_[layer], rows, flat.size(1), 1.0, flat.options());
            sketches.narrow(1, rows.first, rows.count).addmm_(flat, signs.t(), 1.0, scale);
        }
    }

    /// The signs are made once for all of them.
    [[nodiscard]] std::int64_t samples_at_once(std::int64_t bytes) const override {
        return std::max<std::int64_t>(1, rademacher_gradient_bytes / bytes);
    }

private:
    std::int64_t width_;
    std::vector<Philox> random_;
};

class Unsketched final : public GradientSketch {
public:
    explicit Unsketched(const std::vector<LinearLayer>& layers) {
        for (const auto& layer : layers) {
            offset_.push_back(width_);
            width_ += layer.outputs * layer.inputs;
        }
    }
    [[nodiscard]] std::int64_t width() const override { return width_; }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override {
        return std::vector<std::int64_t>{};
    }

    void accumulate(const LayerTap& tap, Tensor& sketches) const override {
        const auto outputs = tap.output_gradient.size(1);
        const auto inputs = tap.input.size(1);
        if (tap.padding != nullptr) {
            for_each_dense(tap, {}, 1, [&](std::int64_t first, const Tensor& gradients) {
                accumulate_dense(tap.layer, gradients, sketches.narrow(0, first, gradients.size(0)));
            });
            return;
        }
        for_each_sample(tap, [&](std::int64_t i, std::int64_t first, std::int64_t rows) {
            sketches.select(0, i)
                .narrow(0, offset_[tap.layer], outputs * inputs)
                .view({outputs, inputs})
                .addmm_(tap.output_gradient.narrow(0, first, rows).t(), tap.input.narrow(0, first, rows));
        });
    }

    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        const auto flat = gradients.flatten(1);
        sketches.narrow(1, offset_[layer], flat.size(1)).add_(flat);
    }

private:
    std::int64_t width_ = 0;
    std::vector<std::int64_t> offset_;
};

}  // namespace

Tensor part_norms(const Tensor& rows, const std::vector<std::int64_t>& parts) {
    std::vector<Tensor> squares;
    for (const auto& part : rows.to(torch::kFloat64).split_with_sizes(parts, 1))
        squares.push_back(part.square().sum(1));
    return at::stack(squares, 1);
}

Tensor expected_errors(const Tensor& rows, const Tensor& samples, const std::vector<std::int64_t>& parts) {
    return at::mv(part_norms(rows, parts), samples / at::tensor(parts, samples.options())).sqrt();
}

std::unique_ptr<GradientSketch> make_sketch(SketchKind kind, const std::vector<LinearLayer>& layers, std::int64_t width,
                                            std::uint64_t seed, const torch::TensorOptions& options) {
    check_sketch_dim(kind, width, layers);
    const auto length = width / static_cast<std::int64_t>(layers.size());
    switch (kind) {
        case SketchKind::tensor:
            return make_tensor_sketch(layers, length, seed, options);
        case SketchKind::kronecker:
            return std::make_unique<Kronecker>(layers, width, seed, options);
        case SketchKind::hadamard:
            return std::make_unique<Hadamard>(layers, width, seed, options);
        case SketchKind::rademacher:
            return std::make_unique<Rademacher>(layers, width, seed);
        case SketchKind::none:
            break;
    }
    return std::make_unique<Unsketched>(layers);
}

}  // namespace idistill::influence
