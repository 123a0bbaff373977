#pragma once
// Memory of a GPU for tests: of CUDA, or of what stands for it before the program (fake_nccl.cpp).

#include <dlfcn.h>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace idistill::test {

/// A function of what this process has loaded; null where none has that name.
template <class Function>
Function* loaded(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

inline bool is_fake() { return loaded<int()>("fake_nccl_communicators") != nullptr; }

/// Loads LibTorch's CUDA half, unless the fake is there. Whether there is a GPU, or what stands for one.
inline bool load_cuda() {
    if (!is_fake() && dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) return false;
    auto* const set_device = loaded<int(int)>("cudaSetDevice");
    return set_device != nullptr && set_device(0) == 0;
}

/// `count` values on the device, not initialised.
template <class T>
class DeviceMemory {
public:
    explicit DeviceMemory(std::size_t count) : count_(count) {
        if (count > 0) check(loaded<int(void**, std::size_t)>("cudaMalloc")(&data_, count * sizeof(T)), "cudaMalloc");
    }
    explicit DeviceMemory(const std::vector<T>& values) : DeviceMemory(values.size()) { write(values); }
    ~DeviceMemory() {
        if (data_ != nullptr) loaded<int(void*)>("cudaFree")(data_);
    }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    /// For collectives alone: the host cannot read it.
    [[nodiscard]] std::span<T> span() const { return {static_cast<T*>(data_), count_}; }

    void write(const std::vector<T>& values, std::size_t first = 0) {
        copy(span().data() + first, values.data(), values.size());
    }
    [[nodiscard]] std::vector<T> read(std::size_t first, std::size_t count) const {
        std::vector<T> values(count);
        copy(values.data(), span().data() + first, count);
        return values;
    }
    [[nodiscard]] std::vector<T> read() const { return read(0, count_); }

private:
    static void check(int code, const char* call) {
        if (code != 0) throw std::runtime_error(std::string(call) + ": error " + std::to_string(code));
    }
    static void copy(T* to, const T* from, std::size_t count) {
        constexpr int by_address = 4;  // cudaMemcpyDefault
        check(loaded<int(void*, const void*, std::size_t, int)>("cudaMemcpy")(to, from, count * sizeof(T), by_address),
              "cudaMemcpy");
    }

    std::size_t count_;
    void* data_ = nullptr;
};

}  // namespace idistill::test
