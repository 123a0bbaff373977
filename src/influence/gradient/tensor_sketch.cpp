// Gradients are sums of outer products y x' of a row's output gradient and input, so their count sketch is a sum of
// circular convolutions of two short ones: a product where it is taken apart into frequencies (Pham and Pagh, KDD 2013,
// section 3). It stays there: inner products of spectra are those of the sketches.

#include "tensor_sketch.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "count_sketch.hpp"
#include "idistill/influence/gradient/per_sample.hpp"
#include "idistill/influence/gradient/sketch_shape.hpp"
#include "idistill/model/kernels.hpp"

namespace idistill::influence {
namespace {

using model::LayerTap;
using torch::Tensor;

/// Of the spectra that a device holds at a time.
constexpr double device_sketch_bytes = 1 << 30;

class TensorSketch final : public GradientSketch {
public:
    TensorSketch(const std::vector<model::LinearLayer>& layers, std::int64_t length, std::uint64_t seed,
                 const at::TensorOptions& options)
        : length_(length), real_(options.dtype(at::promote_types(options.dtype().toScalarType(), torch::kFloat32))) {
        for (const auto& layer : layers) {
            inputs_.emplace_back(Philox(seed, "tensor input", layer.name), layer.inputs, length, real_);
            outputs_.emplace_back(Philox(seed, "tensor output", layer.name), layer.outputs, length, real_);
        }
        // Every frequency between the first and that of half the length stands for two (Parseval).
        const auto scale = 1.0 / std::sqrt(static_cast<double>(length));
        weight_ = at::full({length}, std::sqrt(2.0) * scale, real_);
        weight_[0] = scale;
        if (length % 2 == 0) weight_[length - 1] = scale;
    }
    [[nodiscard]] std::int64_t width() const override { return static_cast<std::int64_t>(inputs_.size()) * length_; }
    [[nodiscard]] std::optional<std::vector<std::int64_t>> dense_parts() const override {
        return std::vector<std::int64_t>(inputs_.size(), length_);
    }

    void accumulate(const LayerTap& tap, Tensor& sketches) const override {
        if (tap.padding != nullptr) return accumulate_padded(tap, sketches);
        auto sums = at::zeros({sketches.size(0), length_ / 2 + 1}, real_.dtype(at::toComplexType(real_type())));
        // Blocks begin with a sample, so that its bits do not depend on those it comes with.
        for_each_sample(tap, [&](std::int64_t i, std::int64_t begin, std::int64_t rows) {
            for (auto first = begin; first < begin + rows; first += tensor_rows_at_once) {
                const auto count = std::min(tensor_rows_at_once, begin + rows - first);
                const auto products =
                    spectra(inputs_[tap.layer], tap.input.narrow(0, first, count))
                        .mul_(spectra(outputs_[tap.layer], tap.output_gradient.narrow(0, first, count)));
                sums.select(0, i).add_(products.sum(0));
            }
        });
        add_spectra(tap.layer, sums, sketches);
    }

    /// A whole gradient is a sum of outer products too: of its rows with the outputs.
    void accumulate_dense(std::size_t layer, const Tensor& gradients, Tensor sketches) const override {
        if (!gradients.is_cpu()) {
            const auto outputs = spectra_of_outputs(layer);
            const auto bytes = static_cast<double>(outputs.numel()) * 2.0 * sizeof(float);
            const auto most = std::max<std::int64_t>(1, static_cast<std::int64_t>(device_sketch_bytes / bytes));
            for (std::int64_t first = 0; first < gradients.size(0); first += most) {
                const auto some = gradients.narrow(0, first, std::min(most, gradients.size(0) - first));
                const auto products =
                    spectra(inputs_[layer], some.flatten(0, 1)).view({some.size(0), some.size(1), -1}).mul_(outputs);
                add_spectra(layer, products.sum(1), sketches.narrow(0, first, some.size(0)));
            }
            return;
        }
        const auto sketched = at::empty({gradients.size(0), length_}, real_);
        for (std::int64_t i = 0; i < gradients.size(0); ++i)
            sketched.select(0, i).copy_(
                count_sketch_of_matrix(outputs_[layer], inputs_[layer], gradients.select(0, i).to(real_type())));
        add_spectra(layer, at::fft_rfft(sketched), sketches);
    }

private:
    /// Samples together, as many as fit.
    void accumulate_padded(const LayerTap& tap, Tensor& sketches) const {
        const auto& padding = *tap.padding;
        const auto numbers = static_cast<double>(length_ / 2 + 1);
        const auto bytes = [numbers](double longest) { return longest * numbers * sizeof(float); };
        padding.in_groups(bytes, [&](std::int64_t first, std::int64_t m) {
            const auto inputs = spectra(inputs_[tap.layer], padding.part(tap.input, first, m));
            const auto outputs = spectra(outputs_[tap.layer], padding.part(tap.output_gradient, first, m));
            add_spectra(tap.layer, model::product_sums(inputs, outputs, padding.offsets(first, m)),
                        sketches.narrow(0, first, m));
        });
    }

    /// (outputs x length / 2 + 1) of the unit vectors.
    [[nodiscard]] Tensor spectra_of_outputs(std::size_t layer) const {
        const auto& sketch = outputs_[layer];
        auto units = at::zeros({sketch.bucket.numel(), length_}, real_);
        units.scatter_(1, sketch.bucket.unsqueeze(1), sketch.sign.unsqueeze(1));
        return at::fft_rfft(units);
    }

    [[nodiscard]] at::ScalarType real_type() const { return real_.dtype().toScalarType(); }

    /// (rows x length / 2 + 1) of the count sketches of `rows`.
    [[nodiscard]] Tensor spectra(const CountSketch& sketch, const Tensor& rows) const {
        return at::fft_rfft(sketch.of_rows(rows).to(real_type()));
    }

    /// A spectrum's real numbers in order of frequency, real part first: the imaginary part of the first frequency is
    /// 0, and of the last, for an even length.
    void add_spectra(std::size_t layer, const Tensor& sums, const Tensor& sketches) const {
        const auto numbers = at::view_as_real(sums).flatten(1);
        auto own = sketches.narrow(1, static_cast<std::int64_t>(layer) * length_, length_);
        own.narrow(1, 0, 1).addcmul_(numbers.narrow(1, 0, 1), weight_.narrow(0, 0, 1));
        own.narrow(1, 1, length_ - 1).addcmul_(numbers.narrow(1, 2, length_ - 1), weight_.narrow(0, 1, length_ - 1));
    }

    std::int64_t length_;
    at::TensorOptions real_;
    std::vector<CountSketch> inputs_, outputs_;
    Tensor weight_;
};

}  // namespace

std::unique_ptr<GradientSketch> make_tensor_sketch(const std::vector<model::LinearLayer>& layers, std::int64_t length,
                                                   std::uint64_t seed, const torch::TensorOptions& options) {
    return std::make_unique<TensorSketch>(layers, length, seed, options);
}

}  // namespace idistill::influence
