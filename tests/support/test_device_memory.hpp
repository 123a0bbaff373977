#pragma once
// Where tensors of the test device lie, and memory of the host that it reads by itself.

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <torch/types.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <unordered_map>
#include <vector>

namespace idistill::test {

/// Addresses of tensors, and the memory behind them at the same distance everywhere.
class Memory {
public:
    static Memory& of_device() {
        static Memory memory;
        return memory;
    }

    void* allocate(std::size_t bytes) {
        const auto size = std::bit_ceil(std::max<std::size_t>(bytes, 64));
        auto& free = free_[size];
        std::byte* address = nullptr;
        if (!free.empty()) {
            address = free.back();
            free.pop_back();
        } else {
            if (used_ + size > all) throw std::bad_alloc();
            address = tensors_ + used_;
            used_ += size;
        }
        std::memset(behind(address), 0xff, bytes);  // NaN: nothing was promised of it
        size_[address] = size;
        return address;
    }
    void free(void* address) {
        auto* own = static_cast<std::byte*>(address);
        free_[size_.at(own)].push_back(own);
    }
    [[nodiscard]] bool holds(const void* address) const { return address >= tensors_ && address < tensors_ + all; }
    [[nodiscard]] void* behind(const void* address) const {
        return numbers_ + (static_cast<const std::byte*>(address) - tensors_);
    }
    [[nodiscard]] bool has_behind(const void* number) const { return number >= numbers_ && number < numbers_ + all; }

private:
    static constexpr std::size_t all = std::size_t{1} << 36;  // of addresses

    Memory() : tensors_(reserved(PROT_NONE)), numbers_(reserved(PROT_READ | PROT_WRITE)) {}

    static std::byte* reserved(int protection) {
        void* memory = mmap(nullptr, all, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        return static_cast<std::byte*>(memory);
    }

    std::byte *tensors_, *numbers_;
    std::size_t used_ = 0;
    std::unordered_map<std::size_t, std::vector<std::byte*>> free_;  ///< by size
    std::unordered_map<std::byte*, std::size_t> size_;
};

class Tensors final : public c10::Allocator {
public:
    static Tensors& allocator() {
        static Tensors one;
        return one;
    }
    c10::DataPtr allocate(std::size_t bytes) override {
        if (bytes == 0) return {nullptr, {torch::kPrivateUse1, 0}};
        ++count_;
        if (end_ > 0 && --end_ == 0) C10_THROW_ERROR(OutOfMemoryError, "the test device's memory ends here");
        void* address = Memory::of_device().allocate(bytes);
        return {address, address, [](void* own) { Memory::of_device().free(own); }, {torch::kPrivateUse1, 0}};
    }
    void copy_data(void* to, const void* from, std::size_t bytes) const override {
        const auto& memory = Memory::of_device();
        default_copy_data(memory.behind(to), memory.behind(from), bytes);
    }
    [[nodiscard]] std::int64_t count() const { return count_; }
    void end_at(std::int64_t allocation) { end_ = allocation; }

private:
    std::int64_t count_ = 0, end_ = 0;
};

/// Memory of the host that a GPU reads by itself.
class Pinned final : public c10::Allocator {
public:
    static Pinned& allocator() {
        static Pinned one;
        return one;
    }
    c10::DataPtr allocate(std::size_t bytes) override {
        auto own = c10::GetAllocator(torch::kCPU)->allocate(bytes);
        void* address = own.get();
        live_.push_back(address);
        own.release_context();
        return {address, address,
                [](void* old) {
                    std::erase(allocator().live_, old);
                    c10::GetAllocator(torch::kCPU)->raw_deallocate(old);
                },
                torch::kCPU};
    }
    void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
    [[nodiscard]] bool holds(const void* address) const {
        return std::find(live_.begin(), live_.end(), address) != live_.end();
    }

private:
    std::vector<void*> live_;
};

}  // namespace idistill::test
