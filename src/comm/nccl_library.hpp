#pragma once
// What is used of NCCL and of CUDA's runtime, declared here so that the same program is built with and without them.
// Names, values and layouts are the libraries' binary interface; tests/unit/comm_nccl_library.cpp compares them with
// nccl.h where there is one.

#include <climits>
#include <cstddef>
#include <string>

#include "idistill/comm/communicator.hpp"

namespace idistill::comm::nccl {

using Handle = struct OpaqueHandle*;  ///< ncclComm_t
using Stream = struct OpaqueStream*;  ///< cudaStream_t; null is the default stream
using Event = struct OpaqueEvent*;    ///< cudaEvent_t

struct UniqueId {
    char bytes[128];
};

enum Result : int {
    success = 0,
    unhandled_cuda_error = 1,
    system_error = 2,
    internal_error = 3,
    invalid_argument = 4,
    invalid_usage = 5,
    remote_error = 6,
    in_progress = 7
};

enum CudaResult : int { cuda_success = 0, cuda_not_ready = 600 };

/// ncclConfig_t as NCCL 2.14 had it first. Newer ones read as much of it as `size` says, and have their own defaults
/// for what `version` did not have yet.
struct Config {
    std::size_t size = sizeof(Config);
    unsigned magic = 0xcafebeefU;
    unsigned version = 21400;
    int blocking = 0;
    int padding = INT_MIN;  ///< the first field that 2.17 has put there: undefined
};

/// ncclDataType_t, ncclRedOp_t
int data_type(ElementType type);
int operation(Reduction reduction);

struct Library {
    Result (*get_version)(int* version);
    Result (*get_unique_id)(UniqueId* id);
    Result (*init_rank)(Handle* handle, int ranks, UniqueId id, int rank, Config* config);
    Result (*get_async_error)(Handle handle, Result* error);
    Result (*all_reduce)(const void* from, void* to, std::size_t count, int type, int operation, Handle, Stream);
    Result (*broadcast)(const void* from, void* to, std::size_t count, int type, int root, Handle, Stream);
    Result (*finalize)(Handle handle);
    Result (*destroy)(Handle handle);
    Result (*abort)(Handle handle);
    const char* (*error_text)(Result error);
    const char* (*last_error)(Handle handle);
    CudaResult (*create_event)(Event* event, unsigned flags);
    CudaResult (*record_event)(Event event, Stream stream);
    CudaResult (*query_event)(Event event);
    CudaResult (*destroy_event)(Event event);
    CudaResult (*synchronize)(Stream stream);
    const char* (*cuda_error_text)(CudaResult error);

    /// "NCCL 2.28.9"
    [[nodiscard]] std::string version() const;
};

/// The functions of the libraries that libtorch_cuda.so is bound to, or else of what the program itself was started
/// with. Loads nothing, so that there are never two versions of one library. Throws Error(usage) where one is missing.
Library find_library();

}  // namespace idistill::comm::nccl
