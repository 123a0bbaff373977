#pragma once
// Every kernel at shapes of real models: its first rows against the same row functions on the host, and how long it
// takes.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu.hpp"
#include "kernel_cases.hpp"
#include "kernels_in_order.hpp"

namespace idistill::test {

template <class T>
Numbers widened(const std::vector<T>& stored) {
    Numbers values;
    for (const auto number : stored) values.push_back(model::rows::widen(number));
    return values;
}

/// The host's run of the row functions, as wide as the GPU runs them, on its first rows.
inline const model::CudaKernels& on_host() { return kernels_in_order<0>(); }
inline constexpr std::int64_t compared = 8;  // rows

class LargeCases {
public:
    explicit LargeCases(const model::CudaKernels& kernels) : kernels_(kernels) {}

    template <class T>
    void all() {
        constexpr std::int64_t rows = 16384;
        for (const std::int64_t width : {2048, 8192}) {
            norms<T>(rows, width);
            activations<T>(rows, width);
        }
        norms<T>(16 * rows, 128);
        rotation<T>(rows, 32, 64);
        rotation<T>(rows, 32, 128);
        softmax<T>(64 * 8, 4 * 256, 256, 4);
        softmax<T>(8 * 8, 4 * 1024, 1024, 4);
        cross_entropy<T>(512, 128256);
        cross_entropy<T>(4096, 32000);
        for (const std::int64_t buckets : {1024, 8192}) {
            bucket_sums<T>(rows, 2048, buckets);
            bucket_sums<T>(rows, 8192, buckets);
            bucket_sums<T>(rows, 14336, buckets);
        }
    }
    void products() {
        product_sums(16384, 513);
        product_sums(16384, 4097);
    }
    [[nodiscard]] bool good() const { return good_; }

private:
    template <class T>
    void line(const char* kernel, std::int64_t rows, std::int64_t width, double time, double bytes, double error) {
        const auto* storage = storage_of<T> == model::Storage::bf16 ? "bf16" : "fp32";
        const bool right = error < kernel_tolerance<T>();
        std::printf("large %s %-18s %7ld x %6ld  error %.1e  %8.1f us  %6.0f GB/s%s\n", storage, kernel, rows, width,
                    error, time, bytes / time * 1e-3, right ? "" : "  WRONG");
        std::fflush(stdout);
        good_ = good_ && right;
    }

    template <class T>
    void norms(std::int64_t rows, std::int64_t width) {
        constexpr auto storage = storage_of<T>;
        const auto count = rows * width, some = compared * width;
        const Random<T> x(count, sets, 1, 1), a(count, sets, 1, 2), y(count, sets, 1, 3), weight(width, 1, 1, 4);
        const auto host_x = x.first(some), host_a = a.first(some), host_weight = weight.first(width);
        auto host_y = y.first(some);
        const auto forward = [&](int set) {
            return kernels_.rms_norm(storage, x[set], weight[0], 1e-5F, rows, width, y[set], nullptr);
        };
        const auto backward = [&](int set) {
            return kernels_.rms_norm_backward(storage, x[set], weight[0], 1e-5F, a[set], rows, width, y[set], nullptr);
        };
        const auto tangent = [&](int set) {
            return kernels_.rms_norm_tangent(storage, x[set], weight[0], 1e-5F, a[set], nullptr, rows, width, y[set],
                                             nullptr);
        };
        const auto error = [&] { return relative_difference(widened(y.first(some)), widened(host_y)); };
        backward(0);
        on_host().rms_norm_backward(storage, host_x.data(), host_weight.data(), 1e-5F, host_a.data(), compared, width,
                                    host_y.data(), nullptr);
        const double backward_error = error();
        line<T>("rms_norm_backward", rows, width, microseconds(backward), 4.0 * x.bytes(), backward_error);
        forward(0);
        on_host().rms_norm(storage, host_x.data(), host_weight.data(), 1e-5F, compared, width, host_y.data(), nullptr);
        const double forward_error = error();
        line<T>("rms_norm", rows, width, microseconds(forward), 2.0 * x.bytes(), forward_error);
        tangent(0);
        on_host().rms_norm_tangent(storage, host_x.data(), host_weight.data(), 1e-5F, host_a.data(), nullptr, compared,
                                   width, host_y.data(), nullptr);
        const double tangent_error = error();
        line<T>("rms_norm_tangent", rows, width, microseconds(tangent), 3.0 * x.bytes(), tangent_error);
    }

    template <class T>
    void activations(std::int64_t rows, std::int64_t width) {
        constexpr auto storage = storage_of<T>;
        const auto count = rows * width, some = compared * width;
        const Random<T> x(2 * count, sets, 3, 1), t(2 * count, sets, 1, 2), g(count, sets, 1, 3), y(count, sets, 1, 4);
        const auto host_x = x.first(2 * some), host_t = t.first(2 * some), host_g = g.first(some);
        std::vector<T> host_y(static_cast<std::size_t>(some)), host_wide(static_cast<std::size_t>(2 * some));
        auto time =
            microseconds([&](int set) { return kernels_.swiglu(storage, x[set], rows, width, y[set], nullptr); });
        on_host().swiglu(storage, host_x.data(), compared, width, host_y.data(), nullptr);
        line<T>("swiglu", rows, width, time, 3.0 * g.bytes(),
                relative_difference(widened(y.first(some)), widened(host_y)));
        time = microseconds(
            [&](int set) { return kernels_.swiglu_tangent(storage, x[set], t[set], rows, width, y[set], nullptr); });
        on_host().swiglu_tangent(storage, host_x.data(), host_t.data(), compared, width, host_y.data(), nullptr);
        line<T>("swiglu_tangent", rows, width, time, 5.0 * g.bytes(),
                relative_difference(widened(y.first(some)), widened(host_y)));
        time = microseconds(
            [&](int set) { return kernels_.swiglu_backward(storage, x[set], g[set], rows, width, t[set], nullptr); });
        on_host().swiglu_backward(storage, host_x.data(), host_g.data(), compared, width, host_wide.data(), nullptr);
        line<T>("swiglu_backward", rows, width, time, 5.0 * g.bytes(),
                relative_difference(widened(t.first(2 * some)), widened(host_wide)));
    }

    template <class T>
    void rotation(std::int64_t rows, std::int64_t heads, std::int64_t head_dim) {
        constexpr auto storage = storage_of<T>;
        const auto width = heads * head_dim, half = head_dim / 2;
        const Random<T> x(rows * width, sets, 1, 1);
        const Random<float> cosine(rows * half, 1, 0.7, 2), sine(rows * half, 1, 0.7, 3);
        auto host = x.first(compared * width);
        const auto rotate = [&](int set) {
            return kernels_.rotate(storage, x[set], rows, width, heads, head_dim, cosine[0], sine[0], 1, nullptr);
        };
        rotate(0);
        on_host().rotate(storage, host.data(), compared, width, heads, head_dim, cosine.first(compared * half).data(),
                         sine.first(compared * half).data(), 1, nullptr);
        const auto error = relative_difference(widened(x.first(compared * width)), widened(host));
        line<T>("rotate", rows, width, microseconds(rotate), 2.0 * x.bytes() + 2.0 * cosine.bytes(), error);
    }

    template <class T>
    void softmax(std::int64_t batch, std::int64_t rows, std::int64_t width, std::int64_t group) {
        constexpr auto storage = storage_of<T>;
        const Random<T> scores(batch * rows * width, sets, 5, 1), values(batch * rows * width, sets, 1, 2);
        std::vector<std::int64_t> valid(static_cast<std::size_t>(rows / group));
        std::iota(valid.begin(), valid.end(), 1);
        std::int64_t* there = nullptr;
        require(cudaMalloc(&there, valid.size() * 8), "cudaMalloc");
        require(cudaMemcpy(there, valid.data(), valid.size() * 8, cudaMemcpyHostToDevice), "to the device");
        auto host = scores.first(rows * width), host_values = values.first(rows * width);
        const auto causal = [&](int set) {
            return kernels_.causal_softmax(storage, scores[set], batch, rows, width, group, 0, there, 0.1F, nullptr);
        };
        causal(0);
        on_host().causal_softmax(storage, host.data(), 1, rows, width, group, 0, valid.data(), 0.1F, nullptr);
        const auto error = relative_difference(widened(scores.first(rows * width)), widened(host));
        // Half of what is there is read.
        line<T>("causal_softmax", batch * rows, width, microseconds(causal), 1.5 * scores.bytes(), error);
        host = scores.first(rows * width);
        const auto jacobian = [&](int set) {
            return kernels_.softmax_jacobian(storage, scores[set], values[set], batch * rows, width, 0.1F, nullptr);
        };
        jacobian(0);
        on_host().softmax_jacobian(storage, host.data(), host_values.data(), rows, width, 0.1F, nullptr);
        const auto jacobian_error = relative_difference(widened(values.first(rows * width)), widened(host_values));
        line<T>("softmax_jacobian", batch * rows, width, microseconds(jacobian), 3.0 * values.bytes(), jacobian_error);
        cudaFree(there);
    }

    template <class T>
    void cross_entropy(std::int64_t rows, std::int64_t width) {
        constexpr auto storage = storage_of<T>;
        const Random<T> logits(rows * width, sets, 4, 1);
        const Random<float> scale(rows, 1, 1, 2), loss(rows, 1, 1, 3);
        std::vector<std::int64_t> labels;
        for (std::int64_t row = 0; row < rows; ++row) labels.push_back(row * 7919 % width);
        std::int64_t* there = nullptr;
        require(cudaMalloc(&there, labels.size() * 8), "cudaMalloc");
        require(cudaMemcpy(there, labels.data(), labels.size() * 8, cudaMemcpyHostToDevice), "to the device");
        auto host = logits.first(compared * width);
        auto host_loss = loss.first(compared);
        const auto entropy = [&](int set) {
            return kernels_.cross_entropy(storage, logits[set], rows, width, there, scale[0], loss[0], nullptr);
        };
        entropy(0);
        on_host().cross_entropy(storage, host.data(), compared, width, labels.data(), scale.first(compared).data(),
                                host_loss.data(), nullptr);
        const auto error = std::max(relative_difference(widened(logits.first(compared * width)), widened(host)),
                                    relative_difference(widened(loss.first(compared)), widened(host_loss)));
        line<T>("cross_entropy", rows, width, microseconds(entropy), 2.0 * logits.bytes(), error);
        cudaFree(there);
    }

    template <class T>
    void bucket_sums(std::int64_t rows, std::int64_t width, std::int64_t buckets) {
        constexpr auto storage = storage_of<T>;
        const Random<T> x(rows * width, sets, 1, 1);
        const Random<float> sketches(rows * buckets, sets, 1, 2);
        std::mt19937_64 engine(1);
        std::vector<std::vector<std::int32_t>> members(static_cast<std::size_t>(buckets));
        for (std::int32_t i = 0; i < width; ++i)
            members[engine() % members.size()].push_back(engine() % 2 == 0 ? i : ~i);
        std::vector<std::int32_t> order, start{0};
        for (const auto& own : members) {
            order.insert(order.end(), own.begin(), own.end());
            start.push_back(static_cast<std::int32_t>(order.size()));
        }
        std::int32_t *orders = nullptr, *starts = nullptr;
        require(cudaMalloc(&orders, order.size() * 4), "cudaMalloc");
        require(cudaMalloc(&starts, start.size() * 4), "cudaMalloc");
        require(cudaMemcpy(orders, order.data(), order.size() * 4, cudaMemcpyHostToDevice), "to the device");
        require(cudaMemcpy(starts, start.data(), start.size() * 4, cudaMemcpyHostToDevice), "to the device");
        std::vector<float> host(static_cast<std::size_t>(compared * buckets));
        on_host().bucket_sums(storage, x.first(compared * width).data(), compared, width, width, order.data(),
                              start.data(), buckets, host.data(), nullptr);
        const auto time = microseconds([&](int set) {
            return kernels_.bucket_sums(storage, x[set], rows, width, width, orders, starts, buckets, sketches[set],
                                        nullptr);
        });
        const auto name = "bucket_sums " + std::to_string(buckets);
        line<T>(name.c_str(), rows, width, time, static_cast<double>(x.bytes() + sketches.bytes()),
                relative_difference(widened(sketches.first(compared * buckets)), widened(host)));
        cudaFree(orders);
        cudaFree(starts);
    }

    void product_sums(std::int64_t rows, std::int64_t width) {
        const Random<float> a(2 * rows * width, sets, 1, 1), b(2 * rows * width, sets, 1, 2);
        std::vector<std::int32_t> offsets{0};
        for (std::int32_t i = 0; offsets.back() < rows; ++i)
            offsets.push_back(std::min(static_cast<std::int32_t>(rows), offsets.back() + 60 + i * 37 % 271));
        const auto segments = static_cast<std::int64_t>(offsets.size()) - 1;
        const Random<float> sums(2 * segments * width, sets, 1, 3);
        std::int32_t* there = nullptr;
        require(cudaMalloc(&there, offsets.size() * 4), "cudaMalloc");
        require(cudaMemcpy(there, offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice), "to the device");
        const auto first = offsets[1];
        std::vector<float> host(static_cast<std::size_t>(2 * width));
        on_host().product_sums(a.first(2 * first * width).data(), b.first(2 * first * width).data(), offsets.data(), 1,
                               width, host.data(), nullptr);
        const auto time = microseconds(
            [&](int set) { return kernels_.product_sums(a[set], b[set], there, segments, width, sums[set], nullptr); });
        line<float>("product_sums", rows, width, time, 2.0 * a.bytes() + sums.bytes(),
                    relative_difference(widened(sums.first(2 * width)), widened(host)));
        cudaFree(there);
    }

    const model::CudaKernels& kernels_;
    bool good_ = true;
};

}  // namespace idistill::test
