#pragma once
// What the measuring programs share: seconds of all ranks, and medians.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "idistill/comm/communicator.hpp"

namespace idistill::benchmarks {

/// Seconds of the slowest rank.
inline double timed(comm::Communicator& comm, const std::function<void()>& work) {
    comm.barrier();
    const auto start = std::chrono::steady_clock::now();
    work();
    std::int64_t slowest =
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
    comm.all_reduce(std::span<std::int64_t>(&slowest, 1), comm::Reduction::max);
    return static_cast<double>(slowest) * 1e-9;
}

inline double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

inline std::int64_t sum_over_ranks(comm::Communicator& comm, std::int64_t value) {
    comm.all_reduce(std::span<std::int64_t>(&value, 1), comm::Reduction::sum);
    return value;
}

}  // namespace idistill::benchmarks
