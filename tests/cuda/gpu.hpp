#pragma once
// The GPU at hand: memory on it, and how long kernels take there. A call that fails ends the program with status 2.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernel_machine.hpp"

namespace idistill::test {

inline void require(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
}

inline KernelMachine gpu_machine(const model::CudaKernels& kernels) {
    return {kernels,
            [](const void* host, std::size_t bytes) {
                void* there = nullptr;
                require(cudaMalloc(&there, std::max<std::size_t>(bytes, 1)), "cudaMalloc");
                require(cudaMemcpy(there, host, bytes, cudaMemcpyHostToDevice), "to the device");
                return there;
            },
            [](void* host, const void* there, std::size_t bytes) {
                require(cudaMemcpy(host, there, bytes, cudaMemcpyDeviceToHost), "from the device");
            },
            [](void* there) { cudaFree(there); }};
}

/// Device memory of random numbers of T, `sets` times so many that no cache has them when their turn comes again: the
/// same quarter million over and over.
template <class T>
class Random {
public:
    Random(std::int64_t count, int sets, double size, std::uint64_t seed) : count_(count) {
        const auto values = normal_numbers(std::min<std::int64_t>(count, 1 << 18), seed, size);
        std::vector<T> host;
        for (const double value : values) host.push_back(model::rows::narrow<T>(static_cast<float>(value)));
        require(cudaMalloc(&there_, static_cast<std::size_t>(sets) * bytes()), "cudaMalloc");
        const auto all = static_cast<std::size_t>(sets * count);
        auto* numbers = static_cast<T*>(there_);
        std::size_t done = host.size();
        require(cudaMemcpy(numbers, host.data(), done * sizeof(T), cudaMemcpyHostToDevice), "to the device");
        for (; done < all; done += std::min(done, all - done))
            require(
                cudaMemcpy(numbers + done, numbers, std::min(done, all - done) * sizeof(T), cudaMemcpyDeviceToDevice),
                "on the device");
    }
    Random(const Random&) = delete;
    Random& operator=(const Random&) = delete;
    ~Random() { cudaFree(there_); }
    [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(count_) * sizeof(T); }
    T* operator[](int set) const { return static_cast<T*>(there_) + set * count_; }
    /// The first `count` numbers of a set, on the host.
    [[nodiscard]] std::vector<T> first(std::int64_t count, int set = 0) const {
        std::vector<T> host(static_cast<std::size_t>(count));
        require(cudaMemcpy(host.data(), (*this)[set], host.size() * sizeof(T), cudaMemcpyDeviceToHost), "back");
        return host;
    }

private:
    std::int64_t count_;
    void* there_ = nullptr;
};

inline constexpr int sets = 3;

/// Microseconds of launch(set), the median of several rounds.
template <class Launch>
double microseconds(Launch&& launch) {
    constexpr int rounds = 7, launches = 6;
    cudaEvent_t begin, end;
    require(cudaEventCreate(&begin), "event");
    require(cudaEventCreate(&end), "event");
    std::vector<float> times;
    for (int round = 0; round <= rounds; ++round) {
        require(cudaEventRecord(begin), "event");
        for (int i = 0; i < launches; ++i)
            if (const int error = launch(i % sets); error != 0) require(static_cast<cudaError_t>(error), "kernel");
        require(cudaEventRecord(end), "event");
        require(cudaEventSynchronize(end), "kernel");
        float time = 0;
        require(cudaEventElapsedTime(&time, begin, end), "event");
        if (round > 0) times.push_back(time);
    }
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[rounds / 2] * 1e3 / launches;
}

}  // namespace idistill::test
