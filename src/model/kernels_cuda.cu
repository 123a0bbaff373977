// The plugin: the steps of kernels_table.hpp on a GPU's threads. Built by nvcc alone, without LibTorch.

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels_table.hpp"

namespace idistill::model {
namespace {

using rows::Two;

constexpr int warp = 32;
constexpr int rows_per_block = 8;  // of rows that a warp has each

/// The threads of a warp (blockDim.x 32), or of a whole block of one row.
struct Threads {
    Two* of_warps;  ///< shared memory, a state a warp

    template <class Body>
    __device__ __forceinline__ void each(int n, Body&& body) const {
        for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) body(i);
    }

    template <class Combine>
    static __device__ __forceinline__ Two over_warp(Two state, const Combine& combine) {
        float first = state.first;
#pragma unroll
        for (int distance = warp / 2; distance > 0; distance /= 2)
            first = combine.first(first, __shfl_xor_sync(0xffffffffU, first, distance));
        state = combine.aligned(state, first);
#pragma unroll
        for (int distance = warp / 2; distance > 0; distance /= 2)
            state.second += __shfl_xor_sync(0xffffffffU, state.second, distance);
        return state;
    }

    template <class Combine, class Body>
    __device__ __forceinline__ Two reduce(int n, const Combine& combine, Body&& body) const {
        Two state = combine.neutral();
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) body(state, i);
        state = over_warp(state, combine);
        if (blockDim.x > warp) {
            const unsigned lane = threadIdx.x % warp;
            if (lane == 0) of_warps[threadIdx.x / warp] = state;
            __syncthreads();
            state = over_warp(lane < blockDim.x / warp ? of_warps[lane] : combine.neutral(), combine);
        }
        return state;
    }
};

template <bool Whole, class Step>
__global__ void __launch_bounds__(1024, 1) on_rows(const Step step, std::int64_t rows) {
    __shared__ Two of_warps[warp];
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row < rows) step.template operator()<Whole>(Threads{of_warps}, row);
}

/// One column of some rows.
template <class T, int Rows>
struct alignas(sizeof(T) * Rows) Column {
    T at[Rows];
};

/// A block has `Rows` rows in shared memory and takes them from there by buckets.
template <int Rows, class T>
__global__ void __launch_bounds__(512)
    on_buckets(const T* __restrict__ x, std::int64_t rows, std::int64_t stride, int width,
               const std::int32_t* __restrict__ order, const std::int32_t* __restrict__ start, int buckets,
               float* __restrict__ sketches) {
    extern __shared__ uint4 memory[];
    auto* columns = reinterpret_cast<Column<T, Rows>*>(memory);
    const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * Rows;
    const int count = rows - first < Rows ? static_cast<int>(rows - first) : Rows;
    x += first * stride;
    sketches += first * buckets;
    for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
        Column<T, Rows> column;
#pragma unroll
        for (int r = 0; r < Rows; ++r) column.at[r] = r < count ? x[r * stride + i] : T{};
        columns[i] = column;
    }
    __syncthreads();
    for (int bucket = static_cast<int>(threadIdx.x); bucket < buckets; bucket += static_cast<int>(blockDim.x)) {
        float sums[Rows];
        rows::bucket_sums<Rows>(
            order, start[bucket], start[bucket + 1], [&](int i) { return columns[i]; }, sums);
#pragma unroll
        for (int r = 0; r < Rows; ++r)
            if (r < count) sketches[static_cast<std::int64_t>(r) * buckets + bucket] = sums[r];
    }
}

__global__ void __launch_bounds__(warp* rows::product_sums)
    on_products(const rows::Complex* __restrict__ a, const rows::Complex* __restrict__ b,
                const std::int32_t* __restrict__ offsets, std::int64_t width, rows::Complex* __restrict__ sums) {
    __shared__ rows::Complex parts[rows::product_sums][warp];
    const std::int64_t segment = blockIdx.x, column = static_cast<std::int64_t>(blockIdx.y) * warp + threadIdx.x;
    if (column < width)
        parts[threadIdx.y][threadIdx.x] =
            rows::product_sum(a + column, b + column, offsets[segment] + static_cast<std::int64_t>(threadIdx.y),
                              offsets[segment + 1], width);
    __syncthreads();
    if (threadIdx.y != 0 || column >= width) return;
    rows::Complex sum = parts[0][threadIdx.x];
    for (int part = 1; part < rows::product_sums; ++part) {
        sum.real += parts[part][threadIdx.x].real;
        sum.imaginary += parts[part][threadIdx.x].imaginary;
    }
    sums[segment * width + column] = sum;
}

struct Launcher {
    static constexpr int invalid = cudaErrorInvalidValue;

    template <class Step>
    static int rows(const Step& step, bool whole, std::int64_t rows, std::int64_t vectors, void* stream) {
        const auto lanes = static_cast<unsigned>(rows::lanes_for(vectors));
        const dim3 block(lanes, lanes == warp ? rows_per_block : 1);
        const auto grid = static_cast<unsigned>((rows + block.y - 1) / block.y);
        if (whole)
            on_rows<true><<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(step, rows);
        else
            on_rows<false><<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(step, rows);
        return cudaGetLastError();
    }

    /// Rows are taken in fours, or as many as let a multiprocessor hold some blocks, or one at all.
    template <class T>
    static int bucket_sums(const T* x, std::int64_t rows, std::int64_t stride, int width, const std::int32_t* order,
                           const std::int32_t* start, int buckets, float* sketches, void* stream) {
        int device = 0, limit = 0;
        if (const auto error = cudaGetDevice(&device); error != cudaSuccess) return static_cast<int>(error);
        if (const auto error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
            error != cudaSuccess)
            return static_cast<int>(error);
        const auto launch = [&](auto column_bytes) {
            constexpr int each = decltype(column_bytes)::value / static_cast<int>(sizeof(T));
            const auto bytes = static_cast<std::int64_t>(sizeof(Column<T, each>)) * width;
            const auto kernel = on_buckets<each, T>;
            if (const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
                error != cudaSuccess)
                return static_cast<int>(error);
            const auto grid = static_cast<unsigned>((rows + each - 1) / each);
            const int threads = bytes > comfortable / 2 ? 512 : 256;
            kernel<<<grid, threads, static_cast<std::size_t>(bytes), static_cast<cudaStream_t>(stream)>>>(
                x, rows, stride, width, order, start, buckets, sketches);
            return static_cast<int>(cudaGetLastError());
        };
        switch (rows::bytes_of_column(width, comfortable, limit)) {
            case 16: return launch(std::integral_constant<int, 16>{});
            case 8: return launch(std::integral_constant<int, 8>{});
            case 4: return launch(std::integral_constant<int, 4>{});
            default: return cuda_does_not_fit;
        }
    }

    static int product_sums(const rows::Complex* a, const rows::Complex* b, const std::int32_t* offsets,
                            std::int64_t segments, std::int64_t width, rows::Complex* sums, void* stream) {
        const auto columns = (width + warp - 1) / warp;
        if (columns > 65535) return invalid;
        const dim3 grid(static_cast<unsigned>(segments), static_cast<unsigned>(columns));
        on_products<<<grid, dim3(warp, rows::product_sums), 0, static_cast<cudaStream_t>(stream)>>>(a, b, offsets,
                                                                                                    width, sums);
        return cudaGetLastError();
    }

private:
    static constexpr std::int64_t comfortable = 72 << 10;  // bytes: three blocks on a multiprocessor of sm_90
};

int set_device(int device) { return cudaSetDevice(device); }
const char* message(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

constexpr CudaKernels kernels = KernelFunctions<Launcher>::table(&set_device, &message);

}  // namespace
}  // namespace idistill::model

extern "C" __attribute__((visibility("default"))) const idistill::model::CudaKernels* idistill_cuda_kernels() {
    return &idistill::model::kernels;
}
