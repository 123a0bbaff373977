// The plugin of CUDA kernels on the GPU at hand: every kernel against plain functions in double at small shapes,
// against the same row functions on the host at large ones, and how long those take. One line a kernel; status 1 if any
// is wrong.
//   cuda_kernel_check [FOLDER/libidistill_cuda.so]    otherwise the one beside it, or beside its folder

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "gpu.hpp"
#include "kernel_cases.hpp"
#include "large_cases.hpp"

using namespace idistill;
using namespace idistill::test;
using model::rows::Bf16;

namespace {

const model::CudaKernels& plugin(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    auto* kernels = library == nullptr ? nullptr : dlsym(library, "idistill_cuda_kernels");
    if (kernels == nullptr) std::fprintf(stderr, "%s\n", dlerror()), std::exit(2);
    return *reinterpret_cast<const model::CudaKernels* (*)()>(kernels)();
}

template <class T>
bool check_small(const KernelMachine& machine, const char* storage) {
    struct Worst {
        double error = 0;
        std::string shape;
        int cases = 0, wrong = 0;
    };
    std::map<std::string, Worst> by_kernel;
    for (const auto& finding : kernel_findings<T>(machine)) {
        auto& worst = by_kernel[finding.kernel];
        ++worst.cases;
        if (!(finding.error < kernel_tolerance<T>())) ++worst.wrong;
        if (worst.shape.empty() || !(finding.error <= worst.error)) {
            worst.error = finding.error;
            worst.shape = finding.shape;
        }
    }
    bool good = true;
    for (const auto& [kernel, worst] : by_kernel) {
        std::printf("small %s %-22s %3d cases, %d wrong, largest error %.2e at %s\n", storage, kernel.c_str(),
                    worst.cases, worst.wrong, worst.error, worst.shape.c_str());
        good = good && worst.wrong == 0;
    }
    return good;
}

/// Bytes read and written a second by a copy on the device.
void copy_ceiling() {
    const Random<float> x(1 << 26, sets, 1, 1), y(1 << 26, sets, 1, 2);
    const auto time = microseconds([&](int set) {
        return static_cast<int>(cudaMemcpyAsync(y[set], x[set], x.bytes(), cudaMemcpyDeviceToDevice, nullptr));
    });
    std::printf("copy of %zu MB: %.1f us, %.0f GB/s\n", x.bytes() >> 20, time, 2.0 * x.bytes() / time * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
    auto library = std::filesystem::read_symlink("/proc/self/exe").replace_filename("libidistill_cuda.so");
    if (!exists(library)) library = library.parent_path().parent_path() / library.filename();
    const auto& kernels = plugin(argc > 1 ? argv[1] : library.string());
    cudaDeviceProp device{};
    require(cudaSetDevice(0), "no GPU");
    require(cudaGetDeviceProperties(&device, 0), "no GPU");
    std::printf("%s, %d multiprocessors, %d MB L2\n", device.name, device.multiProcessorCount,
                device.l2CacheSize >> 20);
    const auto machine = gpu_machine(kernels);
    bool good = check_small<float>(machine, "fp32");
    good = check_small<Bf16>(machine, "bf16") && good;
    copy_ceiling();
    LargeCases large(kernels);
    large.products();
    large.all<Bf16>();
    large.all<float>();
    good = large.good() && good;
    std::printf(good ? "all right\n" : "SOMETHING IS WRONG\n");
    return good ? 0 : 1;
}
