#include "nccl_library.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <iterator>

#include "idistill/base/error.hpp"

namespace idistill::comm::nccl {
namespace {

template <class Function>
void find(void* scope, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(scope, name));
    if (function == nullptr)
        throw Error(ExitCode::usage,
                    {"several ranks with GPUs", "", "a LibTorch that has brought NCCL 2.14 or newer into the process",
                     std::string("no ") + name,
                     "Use a build of LibTorch with CUDA and NCCL (pip's torch has both), or start one rank"});
}

}  // namespace

int data_type(ElementType type) {
    constexpr int types[] = {1, 2, 4, 3, 5, 7, 8};  // in the order of ElementType
    static_assert(std::size(types) == static_cast<std::size_t>(ElementType::end));
    return types[static_cast<std::size_t>(type)];
}

int operation(Reduction reduction) { return reduction == Reduction::sum ? 0 : reduction == Reduction::max ? 2 : 3; }

std::string Library::version() const {
    int code = 0;
    if (get_version(&code) != success) return "NCCL";
    return fmt::format("NCCL {}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

Library find_library() {
    void* const torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);  // with what it depends on
    void* const scope = torch != nullptr ? torch : RTLD_DEFAULT;
    Library library{};
    find(scope, "ncclGetVersion", library.get_version);
    find(scope, "ncclGetUniqueId", library.get_unique_id);
    find(scope, "ncclCommInitRankConfig", library.init_rank);
    find(scope, "ncclCommGetAsyncError", library.get_async_error);
    find(scope, "ncclAllReduce", library.all_reduce);
    find(scope, "ncclBroadcast", library.broadcast);
    find(scope, "ncclCommFinalize", library.finalize);
    find(scope, "ncclCommDestroy", library.destroy);
    find(scope, "ncclCommAbort", library.abort);
    find(scope, "ncclGetErrorString", library.error_text);
    find(scope, "ncclGetLastError", library.last_error);
    find(scope, "cudaEventCreateWithFlags", library.create_event);
    find(scope, "cudaEventRecord", library.record_event);
    find(scope, "cudaEventQuery", library.query_event);
    find(scope, "cudaEventDestroy", library.destroy_event);
    find(scope, "cudaStreamSynchronize", library.synchronize);
    find(scope, "cudaGetErrorString", library.cuda_error_text);
    return library;
}

}  // namespace idistill::comm::nccl
