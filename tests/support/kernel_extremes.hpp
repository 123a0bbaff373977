#pragma once
// What the fused kernels make of NaN and of numbers near the ends of their storage.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernel_machine.hpp"

namespace idistill::test {

/// NaN in one row of three shows in that row and in no other: error 0 or 1.
template <class T>
std::vector<KernelFinding> not_a_number_findings(const KernelMachine& machine) {
    constexpr std::int64_t rows = 3, width = 40;
    constexpr auto storage = storage_of<T>;
    const auto& run = machine.kernels;
    std::vector<KernelFinding> findings;
    const auto note = [&](const char* kernel, int error, const Numbers& found) {
        const auto in_row = static_cast<std::ptrdiff_t>(found.size()) / rows;
        const auto has = [&](std::int64_t row) {
            return std::any_of(found.begin() + row * in_row, found.begin() + (row + 1) * in_row,
                               [](double value) { return std::isnan(value); });
        };
        findings.push_back({kernel, "NaN", error == 0 && !has(0) && has(1) && !has(2) ? 0.0 : 1.0});
    };
    for (const std::size_t column : {0, 39}) {
        auto numbers = normal_numbers(rows * width, 1);
        numbers[width + column] = std::numeric_limits<double>::quiet_NaN();
        const There<T> bad(machine, numbers), good(machine, normal_numbers(rows * width, 2)),
            weight(machine, normal_numbers(width, 3)), out(machine, normal_numbers(rows * width, 4));
        auto error = run.rms_norm(storage, bad.data(), weight.data(), 1e-5F, rows, width, out.data(), nullptr);
        note("rms_norm", error, out.now());
        error = run.rms_norm_tangent(storage, good.data(), weight.data(), 1e-5F, bad.data(), nullptr, rows, width,
                                     out.data(), nullptr);
        note("rms_norm_tangent", error, out.now());
        error = run.swiglu(storage, bad.data(), rows, width / 2, out.data(), nullptr);
        note("swiglu", error, [&] {
            auto half = out.now();
            half.resize(rows * width / 2);
            return half;
        }());
        const There<T> gradient(machine, normal_numbers(rows * width, 5));
        error = run.rms_norm_backward(storage, bad.data(), weight.data(), 1e-5F, good.data(), rows, width,
                                      gradient.data(), nullptr);
        note("rms_norm_backward", error, gradient.now());
        const There<T> scores(machine, numbers), logits(machine, numbers),
            values(machine, normal_numbers(rows * width, 6));
        error = run.softmax_jacobian(storage, bad.data(), values.data(), rows, width, 1.0F, nullptr);
        note("softmax_jacobian", error, values.now());
        const There<std::int64_t> all(machine, Numbers{width}), labels(machine, Numbers{3, 4, 5});
        error = run.causal_softmax(storage, scores.data(), 1, rows, width, rows, 0, all.data(), 1.0F, nullptr);
        note("causal_softmax", error, scores.now());
        const There<float> scale(machine, Numbers{1, 1, 1}), loss(machine, Numbers{0, 0, 0});
        error =
            run.cross_entropy(storage, logits.data(), rows, width, labels.data(), scale.data(), loss.data(), nullptr);
        note("cross_entropy", error, logits.now());
        note("cross_entropy losses", error, loss.now());
    }
    return findings;
}

/// Gates far outside of what exp can hold: the largest error of a number of its own size.
template <class T>
std::vector<KernelFinding> extreme_gates_findings(const KernelMachine& machine) {
    Numbers gates_and_ups, expected, gradient;
    for (const double g : {-1e38, -1e30, -1e5, -200.0, -104.0, -89.0, -88.0, 0.0, 88.0, 89.0, 104.0, 1e5, 1e30, 1e38}) {
        const double gate = model::rows::widen(model::rows::narrow<T>(static_cast<float>(g)));
        const double s = 1 / (1 + std::exp(-gate));
        gates_and_ups.insert(gates_and_ups.end(), {gate, 0.5});
        expected.push_back(gate * s * 0.5);
        gradient.insert(gradient.end(), {2 * 0.5 * s * (1 + gate * (1 - s)), 2 * gate * s});
    }
    const auto rows = static_cast<std::int64_t>(expected.size());
    const There<T> x(machine, gates_and_ups), twos(machine, Numbers(expected.size(), 2.0));
    const auto y = There<T>::empty(machine, rows), wide = There<T>::empty(machine, 2 * rows);
    const auto largest = [](int error, const Numbers& found, const Numbers& right) {
        double worst = error;
        for (std::size_t i = 0; i < right.size(); ++i) {
            const double own = std::abs(found[i] - right[i]) / (std::abs(right[i]) + 1e-30);
            if (!(own <= worst)) worst = own;
        }
        return worst;
    };
    const auto forward = machine.kernels.swiglu(storage_of<T>, x.data(), rows, 1, y.data(), nullptr);
    const auto backward =
        machine.kernels.swiglu_backward(storage_of<T>, x.data(), twos.data(), rows, 1, wide.data(), nullptr);
    return {{"swiglu", "extreme gates", largest(forward, y.now(), expected)},
            {"swiglu_backward", "extreme gates", largest(backward, wide.now(), gradient)}};
}

}  // namespace idistill::test
