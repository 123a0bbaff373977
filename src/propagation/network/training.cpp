#include "training.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "idistill/base/philox.hpp"
#include "kernels.hpp"

namespace idistill::propagation {
namespace {

using torch::Tensor;

constexpr double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;

/// Uniform in +- bound, keyed by place.
void fill_uniform(const Philox& random, std::int64_t layer, const Tensor& numbers, double bound) {
    auto* values = numbers.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < numbers.numel(); i += 4) {
        const auto words = random.words(static_cast<std::uint64_t>(layer), static_cast<std::uint64_t>(i / 4));
        for (std::int64_t j = i; j < std::min(i + 4, numbers.numel()); ++j)
            values[j] = static_cast<float>(bound * (0x1p-31 * (words[static_cast<std::size_t>(j - i)] + 0.5) - 1.0));
    }
}

}  // namespace

std::int64_t passes_of(std::int64_t pairs, const LearningSettings& settings) {
    const auto batches = std::max<std::int64_t>(1, (pairs + settings.batch - 1) / settings.batch);
    return (settings.epoch_batches + batches - 1) / batches;
}

void shuffle(std::span<Pair> pairs, std::uint64_t seed, std::int64_t pass) {
    const Philox random(seed, "network order");
    for (auto left = pairs.size(); left > 1; --left)
        std::swap(pairs[left - 1], pairs[random.below(left, left, static_cast<std::uint64_t>(pass))]);
}

Training::Training(const NetworkShape& shape, std::uint64_t seed, const LearningSettings& settings)
    : shape_(shape), settings_(settings) {
    const auto numbers = [&] { return at::zeros({shape.parameters()}, at::TensorOptions().dtype(torch::kFloat32)); };
    for (auto* each : {&parameters_, &gradient_, &first_, &second_}) *each = numbers();
    layers_ = layers_of(shape, parameters_);
    gradients_ = layers_of(shape, gradient_);
    const Philox random(seed, "network", shape.pairs ? "pairs" : "samples");
    for (std::size_t layer = 0; layer < layers_.weight.size(); ++layer) {
        const auto inputs = layers_.weight[layer].size(1) + (layer == 0 && shape.pairs ? 1 : 0);
        const double bound = 1.0 / std::sqrt(static_cast<double>(inputs));
        const auto place = 2 * static_cast<std::int64_t>(layer);
        fill_uniform(random, place, layers_.weight[layer], bound);
        fill_uniform(random, place + 1, layers_.bias[layer], bound);
    }
    const auto ways = shape.symmetric ? 2 : 1;
    inputs_ = at::empty({ways * settings.batch, shape.inputs()}, parameters_.options());
    wanted_ = at::empty({settings.batch, shape.outputs}, parameters_.options());
}

double Training::learn(const Examples& examples, std::span<const Pair> pairs) {
    double squares = 0.0;
    const auto batch = static_cast<std::size_t>(settings_.batch);
    for (std::size_t first = 0; first < pairs.size(); first += batch)
        squares += step(examples, pairs.subspan(first, std::min(batch, pairs.size() - first)));
    return squares;
}

void Training::restore(std::int64_t steps, std::span<const float> parameters, std::span<const float> first,
                       std::span<const float> second) {
    steps_ = steps;
    const auto put = [](std::span<const float> values, const Tensor& into) {
        std::copy(values.begin(), values.end(), into.mutable_data_ptr<float>());
    };
    put(parameters, parameters_);
    put(first, first_);
    put(second, second_);
}

/// Rows of the batch, those of the other way round behind them, and what is wanted of them.
void Training::gather(const Examples& examples, std::span<const Pair> batch) {
    const auto e = shape_.embedding, outputs = shape_.outputs;
    const auto* rows = examples.rows.const_data_ptr<float>();
    const auto* columns = shape_.pairs ? examples.columns.const_data_ptr<float>() : nullptr;
    const auto* labels = examples.labels.const_data_ptr<float>();
    auto* to = inputs_.mutable_data_ptr<float>();
    const auto put = [&](const float* from) { to = std::copy_n(from, e, to); };
    for (const auto& [row, column] : batch) {
        put(rows + row * e);
        if (shape_.pairs) put(columns + column * e);
    }
    if (shape_.symmetric) {
        for (const auto& [row, column] : batch) {
            put(columns + column * e);
            put(rows + row * e);
        }
    }
    auto* wanted = wanted_.mutable_data_ptr<float>();
    const auto width = examples.labels.size(1);
    for (const auto& [row, column] : batch) wanted = std::copy_n(labels + row * width + column, outputs, wanted);
}

double Training::step(const Examples& examples, std::span<const Pair> batch) {
    const auto count = std::ssize(batch);
    const auto ways = shape_.symmetric ? 2 : 1;
    gather(examples, batch);
    std::vector<Tensor> inputs{inputs_.narrow(0, 0, ways * count)};  // of every layer
    const auto last = layers_.weight.size() - 1;
    Tensor output;
    for (std::size_t layer = 0; layer <= last; ++layer) {
        auto sums = at::addmm(layers_.bias[layer], inputs[layer], layers_.weight[layer].t());
        if (layer == last)
            output = sums;
        else
            inputs.push_back(sums.relu_());
    }
    const auto own = ways == 1 ? output : 0.5 * (output.narrow(0, 0, count) + output.narrow(0, count, count));
    const auto error = own - wanted_.narrow(0, 0, count);
    const double squares = error.square().sum(torch::kFloat64).item<double>();
    auto slope = error * (2.0 / static_cast<double>(error.numel() * ways));
    if (ways == 2) slope = slope.repeat({2, 1});
    for (auto layer = last;; --layer) {
        at::mm_out(gradients_.weight[layer], slope.t(), inputs[layer]);
        at::sum_out(gradients_.bias[layer], slope, 0);
        if (layer == 0) break;
        slope = at::mm(slope, layers_.weight[layer]).mul_(inputs[layer].gt(0));
    }
    ++steps_;
    const auto steps = static_cast<double>(steps_);
    cpu::adam_step(parameters_.mutable_data_ptr<float>(), gradient_.const_data_ptr<float>(),
                   first_.mutable_data_ptr<float>(), second_.mutable_data_ptr<float>(), parameters_.numel(),
                   {static_cast<float>(settings_.rate / (1.0 - std::pow(beta1, steps))),
                    static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(beta2, steps))), static_cast<float>(beta1),
                    static_cast<float>(beta2), static_cast<float>(epsilon)});
    return squares;
}

}  // namespace idistill::propagation
