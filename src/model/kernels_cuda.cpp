#include "kernels_cuda.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <string>

#include "idistill/base/error.hpp"

namespace idistill::model {
namespace {

constexpr const char* library = "libidistill_cuda.so";

/// Beside the program, beside its folder (tests), or in the folder lib there.
std::filesystem::path plugin_path() {
    const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    for (const auto& folder : {program, program.parent_path(), program.parent_path() / "lib"})
        if (std::filesystem::exists(folder / library)) return folder / library;
    return {};
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& expected, const std::string& found) {
    throw Error(
        ExitCode::internal_error,
        {.where = path,
         .field = "",
         .expected = expected,
         .found = found,
         .remedy = "build it with the program (IDISTILL_CUDA=ON), or remove it: PyTorch's operations serve then"});
}

const CudaKernels* loaded() {
    const auto path = plugin_path();
    if (path.empty()) return nullptr;
    void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (plugin == nullptr) refuse(path, "the plugin of CUDA kernels", dlerror());
    const auto kernels = reinterpret_cast<const CudaKernels* (*)()>(dlsym(plugin, "idistill_cuda_kernels"));
    if (kernels == nullptr) refuse(path, "the plugin of CUDA kernels", dlerror());
    if (const int version = kernels()->version; version != cuda_kernels_version)
        refuse(path, "version " + std::to_string(cuda_kernels_version), "version " + std::to_string(version));
    return kernels();
}

}  // namespace

const CudaKernels* cuda_kernels() {
    static const CudaKernels* const kernels = loaded();
    return kernels;
}

}  // namespace idistill::model
