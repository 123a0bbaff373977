#pragma once
// Numbers on the machine that runs the fused kernels, the host or a GPU, and how far they are from what they should be.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../../src/model/kernels_table.hpp"

namespace idistill::test {

/// Where the kernels run, and how numbers get there and back.
struct KernelMachine {
    const model::CudaKernels& kernels;
    std::function<void*(const void* host, std::size_t bytes)> put;
    std::function<void(void* host, const void* there, std::size_t bytes)> get;
    std::function<void(void* there)> release;
};

/// On this host itself.
inline KernelMachine host_machine(const model::CudaKernels& kernels) {
    return {kernels,
            [](const void* host, std::size_t bytes) {
                void* there = ::operator new (bytes, std::align_val_t{64});
                std::memcpy(there, host, bytes);
                return there;
            },
            [](void* host, const void* there, std::size_t bytes) { std::memcpy(host, there, bytes); },
            [](void* there) { ::operator delete (there, std::align_val_t{64}); }};
}

using Numbers = std::vector<double>;

inline Numbers normal_numbers(std::int64_t count, std::uint64_t seed, double size = 1.0) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> distribution(0.0, size);
    Numbers values(static_cast<std::size_t>(count));
    for (auto& value : values) value = distribution(random);
    return values;
}

template <class T>
inline constexpr auto storage_of = std::is_same_v<T, model::rows::Bf16> ? model::Storage::bf16 : model::Storage::fp32;

/// Numbers of T on a machine, `shift` numbers behind an aligned address and with some behind that no kernel may touch.
template <class T>
class There {
public:
    There(const KernelMachine& machine, const Numbers& values, std::size_t shift = 0)
        : machine_(machine), shift_(shift), stored_(values.size() + shift + guard) {
        if constexpr (std::is_integral_v<T>) {
            for (std::size_t i = 0; i < values.size(); ++i) stored_[shift + i] = static_cast<T>(values[i]);
        } else {
            for (auto& number : stored_) number = model::rows::narrow<T>(left_alone);
            for (std::size_t i = 0; i < values.size(); ++i)
                stored_[shift + i] = model::rows::narrow<T>(static_cast<float>(values[i]));
        }
        there_ = machine.put(stored_.data(), stored_.size() * sizeof(T));
    }
    /// Nothing written yet.
    static There empty(const KernelMachine& machine, std::int64_t count, std::size_t shift = 0) {
        return {machine, Numbers(static_cast<std::size_t>(count), std::numeric_limits<double>::quiet_NaN()), shift};
    }
    There(const There&) = delete;
    There& operator=(const There&) = delete;
    ~There() { machine_.release(there_); }

    [[nodiscard]] T* data() const { return static_cast<T*>(there_) + shift_; }
    /// What was put there, as it was rounded.
    [[nodiscard]] Numbers rounded() const { return numbers(stored_); }
    /// What is there now; all NaN if anything around it was written.
    [[nodiscard]] Numbers now() const {
        std::vector<T> found(stored_.size());
        machine_.get(found.data(), there_, found.size() * sizeof(T));
        auto values = numbers(found);
        const auto outside = [&](std::size_t i) { return i < shift_ || i >= found.size() - guard; };
        for (std::size_t i = 0; i < found.size(); ++i)
            if (outside(i) && std::memcmp(&found[i], &stored_[i], sizeof(T)) != 0)
                values.assign(values.size(), std::numeric_limits<double>::quiet_NaN());
        return values;
    }

private:
    static constexpr std::size_t guard = 16;
    static constexpr float left_alone = 7.0F;

    [[nodiscard]] Numbers numbers(const std::vector<T>& from) const {
        Numbers values;
        for (std::size_t i = shift_; i + guard < from.size(); ++i) {
            if constexpr (std::is_integral_v<T>)
                values.push_back(static_cast<double>(from[i]));
            else
                values.push_back(model::rows::widen(from[i]));
        }
        return values;
    }

    const KernelMachine& machine_;
    std::size_t shift_;
    std::vector<T> stored_;
    void* there_;
};

/// |found - expected| / |expected|; NaN where either has one, infinite for another length.
inline double relative_difference(const Numbers& found, const Numbers& expected) {
    if (found.size() != expected.size()) return std::numeric_limits<double>::infinity();
    double error = 0, size = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        error += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return error == 0 ? 0.0 : std::sqrt(error / size);
}

struct KernelFinding {
    std::string kernel, shape;
    double error;  ///< relative; of a kernel that refuses its arguments infinite
};

}  // namespace idistill::test
