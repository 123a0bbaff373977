#include "idistill/model/cuda.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "idistill/base/error.hpp"
#include "kernels_cuda.hpp"

namespace idistill::model::cuda {
namespace {

/// The driver's functions by name (CUDA driver API); all give 0 for success.
class Driver {
public:
    Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW)) {}

    [[nodiscard]] bool found() const noexcept { return library_ != nullptr; }
    template <class... Arguments>
    int call(const char* name, Arguments... arguments) const {
        auto* function = reinterpret_cast<int (*)(Arguments...)>(dlsym(library_, name));
        return function == nullptr ? -1 : function(arguments...);
    }

private:
    void* library_;
};

const Driver& driver() {
    static const Driver loaded;
    return loaded;
}

std::string uuid_text(const std::array<unsigned char, 16>& bytes) {
    std::string text = "GPU";
    for (std::size_t i = 0; i < bytes.size(); ++i)
        text += fmt::format("{}{:02x}", i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", bytes[i]);
    return text;
}

const c10::impl::DeviceGuardImplInterface& guard() { return *c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA); }

/// The CUDA half of the LibTorch that is loaded.
std::filesystem::path library() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&at::globalContext), &info) == 0) return {};
    return std::filesystem::path(info.dli_fname).parent_path() / "libtorch_cuda.so";
}

/// Of GPUs that multiply bf16 and have flash attention.
constexpr int least_capability = 8;

/// Whether this process computes on a GPU.
bool in_use = false;

}  // namespace

Gpus visible_gpus() {
    if (!std::filesystem::exists(library())) return {{}, "a LibTorch without CUDA (no " + library().string() + ")"};
    if (!driver().found()) return {{}, "no NVIDIA driver on this machine (libcuda.so.1)"};
    if (const int code = driver().call("cuInit", 0U); code != 0)
        return {{},
                code == 100 ? "no GPU is visible (CUDA_VISIBLE_DEVICES, --gpus-per-task)"
                            : fmt::format("the NVIDIA driver does not start (error {})", code)};
    int count = 0;
    driver().call("cuDeviceGetCount", &count);
    if (count == 0) return {{}, "no GPU is visible (CUDA_VISIBLE_DEVICES, --gpus-per-task)"};
    Gpus found;
    for (int i = 0; i < count; ++i) {
        int device = 0;
        std::array<char, 256> name{};
        std::array<unsigned char, 16> uuid{};
        std::size_t bytes = 0;
        driver().call("cuDeviceGet", &device, i);
        driver().call("cuDeviceGetName", name.data(), static_cast<int>(name.size()) - 1, device);
        if (driver().call("cuDeviceGetUuid_v2", uuid.data(), device) != 0)
            driver().call("cuDeviceGetUuid", uuid.data(), device);
        driver().call("cuDeviceTotalMem_v2", &bytes, device);
        int capability = 0;
        constexpr int major_capability = 75;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        driver().call("cuDeviceGetAttribute", &capability, major_capability, device);
        if (capability < least_capability) {
            found.why_none = fmt::format("{}, of compute capability {}.x, where {}.0 is needed", name.data(),
                                         capability, least_capability);
            continue;
        }
        found.gpus.push_back({name.data(), uuid_text(uuid), static_cast<double>(bytes), static_cast<std::size_t>(i)});
    }
    return found;
}

void use_gpu(std::size_t gpu) {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8",
           0);  // cuBLAS gives the same bits every time with a workspace of its own
    if (dlopen(library().c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr)
        throw Error(ExitCode::usage, {"--device cuda", library().string(), "a library that can be loaded", dlerror(),
                                      "Install what it needs beside LibTorch, or use --device cpu."});
    // Not asked before: the first answer is kept.
    if (!at::hasCUDA())
        throw Error(
            ExitCode::usage,
            {"--device cuda", library().string(), "a GPU that LibTorch can use", "none",
             "The driver must be at least as new as the CUDA that LibTorch was built with; or use --device cpu."});
    auto& context = at::globalContext();
    context.lazyInitDevice(c10::DeviceType::CUDA);
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context.setDeterministicFillUninitializedMemory(false);
    context.setAllowTF32CuBLAS(false);
    context.setAllowBF16ReductionCuBLAS(false, true);
    guard().setDevice({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(gpu)});
    in_use = true;
}

std::string libraries() {
    const auto* kernels = cuda_kernels();
    return fmt::format("LibTorch {}, {}", TORCH_VERSION,
                       kernels == nullptr ? "PyTorch's operations" : fmt::format("fused kernels {}", kernels->version));
}

double product_flops_per_second(torch::ScalarType type) {
    constexpr std::int64_t side = 4096;
    constexpr int products = 8;
    const auto options = at::TensorOptions().dtype(type).device(guard().getDevice());
    const auto a = at::rand({side, side}, options), b = at::rand({side, side}, options);
    auto c = at::mm(a, b);
    synchronise();
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < products; ++i) at::mm_out(c, a, b);
    synchronise();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return 2.0 * products * std::pow(static_cast<double>(side), 3) / seconds;
}

double free_bytes() {
    std::size_t free = 0, all = 0;
    driver().call("cuMemGetInfo_v2", &free, &all);
    return static_cast<double>(free);
}

MostBytes most_bytes() {
    const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(guard().getDevice().index());
    return {static_cast<double>(stats.allocated_bytes[0].peak), static_cast<double>(stats.reserved_bytes[0].peak)};
}

void forget_most_bytes() {
    c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(guard().getDevice().index());
}

void give_back_unused() {
    if (in_use) c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache();
}

void synchronise() { guard().synchronizeDevice(guard().getDevice().index()); }

}  // namespace idistill::model::cuda
