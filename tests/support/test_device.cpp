#include "test_device.hpp"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <execinfo.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "test_device_memory.hpp"

namespace idistill::test {
namespace {

using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using torch::Tensor;

const torch::Device device{torch::kPrivateUse1, 0};

// --- tensors of the device as tensors of the CPU, for the time of an operator ---------------------------------------

Tensor made(c10::Storage storage, DispatchKey key, const Tensor& like) {
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), like.dtype());
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
    return tensor;
}

bool on_device(const Tensor& x) { return x.defined() && x.device() == device; }

class Uncovered {
public:
    Tensor host(const Tensor& x) {
        if (!on_device(x)) return x;
        auto& storage = storages_[x.storage().unsafeGetStorageImpl()];
        if (!storage) {
            const auto* address = x.storage().data();
            void* numbers = address == nullptr ? nullptr : Memory::of_device().behind(address);
            storage =
                c10::Storage(c10::Storage::use_byte_size_t(), x.storage().nbytes(), c10::DataPtr(numbers, torch::kCPU),
                             c10::GetAllocator(torch::kCPU), /*resizable=*/true);
            covers_.emplace(storage.unsafeGetStorageImpl(), x.storage());
        }
        tensors_.emplace_back(made(storage, DispatchKey::CPU, x), x);
        return tensors_.back().first;
    }

    /// An operator's result: an argument, a view of one, or numbers of its own.
    Tensor covered(const Tensor& result) {
        if (!result.defined()) return result;
        for (const auto& [host, own] : tensors_)
            if (host.is_same(result)) return own;
        return made(covered_storage(result), DispatchKey::PrivateUse1, result);
    }

    /// Arguments that have other shapes now.
    void take_shapes() {
        for (const auto& [host, own] : tensors_) {
            auto* tensor = own.unsafeGetTensorImpl();
            if (own.storage().nbytes() != host.storage().nbytes())
                tensor->set_storage_keep_dtype(covered_storage(host));
            if (own.sizes() != host.sizes() || own.strides() != host.strides() ||
                own.storage_offset() != host.storage_offset())
                tensor->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
        }
    }

private:
    c10::Storage covered_storage(const Tensor& host) {
        const auto& storage = host.storage();
        const auto view = covers_.find(storage.unsafeGetStorageImpl());
        const bool moved = storage.data() != nullptr && !Memory::of_device().has_behind(storage.data());
        if (view != covers_.end() && !moved) return view->second;
        c10::Storage own(c10::Storage::use_byte_size_t(), storage.nbytes(),
                         Tensors::allocator().allocate(storage.nbytes()), &Tensors::allocator(), /*resizable=*/true);
        if (storage.nbytes() > 0) std::memcpy(Memory::of_device().behind(own.data()), storage.data(), storage.nbytes());
        return own;
    }

    std::unordered_map<c10::StorageImpl*, c10::Storage> storages_;  ///< of the host, by those of the device
    std::unordered_map<c10::StorageImpl*, c10::Storage> covers_;    ///< the inverse
    std::vector<std::pair<Tensor, Tensor>> tensors_;                ///< host and device
};

// --- operators ------------------------------------------------------------------------------------------------------

DeviceWork work;

/// Calls body(tensor) for all tensors of a value, which become what it returns.
template <class Body>
void for_each_tensor(IValue& value, Body&& body) {
    if (value.isTensor()) {
        value = body(value.toTensor());
    } else if (value.isTensorList()) {
        c10::List<Tensor> all;
        for (const Tensor& one : value.toTensorVector()) all.push_back(body(one));
        value = all;
    } else if (value.isOptionalTensorList()) {
        c10::List<std::optional<Tensor>> all;
        for (const std::optional<Tensor>& one : value.toOptionalTensorList())
            all.push_back(one ? std::optional<Tensor>(body(*one)) : std::nullopt);
        value = all;
    }
}

/// Whether a GPU's host waits for numbers: how large the result is, or the result itself.
bool waits(const c10::FunctionSchema& schema, at::ArrayRef<IValue> arguments) {
    static const std::array<std::string, 9> by_numbers{"aten::nonzero",
                                                       "aten::masked_select",
                                                       "aten::bincount",
                                                       "aten::_unique",
                                                       "aten::_unique2",
                                                       "aten::unique_dim",
                                                       "aten::unique_consecutive",
                                                       "aten::histc",
                                                       "aten::_local_scalar_dense"};
    const auto& name = schema.name();
    if (std::find(by_numbers.begin(), by_numbers.end(), name) != by_numbers.end()) return true;
    if (name.find("linalg_") != std::string::npos && name.find("norm") == std::string::npos) return true;
    if (name == "aten::repeat_interleave") return arguments[1].isNone();
    bool masked = false;  // indices that are found first
    for (auto argument : arguments)
        if (argument.isOptionalTensorList())
            for_each_tensor(argument, [&](const Tensor& index) {
                masked = masked || !on_device(index) || index.scalar_type() == torch::kBool;
                return index;
            });
    const auto is_number = [](const c10::Argument& result) {
        return result.type()->kind() != c10::TypeKind::TensorType && result.type()->kind() != c10::TypeKind::ListType;
    };
    return masked || std::any_of(schema.returns().begin(), schema.returns().end(), is_number);
}

bool gives_a_view(const c10::FunctionSchema& schema) {
    return !schema.returns().empty() && schema.returns()[0].alias_info() != nullptr &&
           !schema.returns()[0].alias_info()->isWrite();
}

/// As a GPU does: tensors of the host are neither read nor written, but single numbers and indices.
void refuse_the_hosts(const c10::FunctionSchema& schema, at::ArrayRef<IValue> arguments) {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        auto argument = arguments[i];
        if (argument.isOptionalTensorList()) continue;
        for_each_tensor(argument, [&](const Tensor& x) {
            TORCH_CHECK(!x.defined() || on_device(x) || x.dim() == 0, schema.name(), ": ", schema.arguments()[i].name(),
                        " is a tensor of the host among those of the device");
            return x;
        });
    }
}

/// Any operator, by that of the CPU.
void on_memory(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
    const auto& schema = op.schema();
    const auto first = stack->size() - schema.arguments().size();
    const at::ArrayRef<IValue> arguments(stack->data() + first, schema.arguments().size());
    refuse_the_hosts(schema, arguments);
    if (!gives_a_view(schema)) ++work.operators;
    if (waits(schema, arguments)) ++work.waits[schema.name()];
    Uncovered memory;
    for (auto i = first; i < stack->size(); ++i) {
        auto& argument = (*stack)[i];
        if (argument.isDevice()) argument = torch::Device(torch::kCPU);
        for_each_tensor(argument, [&](const Tensor& x) { return memory.host(x); });
    }
    const at::AutoDispatchBelowADInplaceOrView no_gradients;
    op.callBoxed(stack);
    memory.take_shapes();
    for (auto i = first; i < stack->size(); ++i)
        for_each_tensor((*stack)[i], [&](const Tensor& x) { return memory.covered(x); });
}

at::ScalarType type_or_default(std::optional<at::ScalarType> type) { return c10::dtype_or_default(type); }

Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
    return at::detail::empty_generic(sizes, &Tensors::allocator(), DispatchKeySet(DispatchKey::PrivateUse1),
                                     type_or_default(type), format);
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
    return at::detail::empty_strided_generic(sizes, strides, &Tensors::allocator(),
                                             DispatchKeySet(DispatchKey::PrivateUse1), type_or_default(type));
}

Tensor copy(const Tensor& from, const Tensor& to, bool without_waiting) {
    if (on_device(from) && on_device(to)) {
        ++work.operators;
    } else if (on_device(to)) {
        ++work.to_device;
        if (!without_waiting || !Pinned::allocator().holds(from.storage().data()))
            ++work.waits["a copy from pageable memory"];
    } else {
        ++work.to_host;
        ++work.waits["a copy to the host"];
    }
    Uncovered memory;
    memory.host(to).copy_(memory.host(from));
    return to;
}

// --- what PyTorch asks of a device ----------------------------------------------------------------------------------

/// One device, one stream.
struct Guard final : c10::impl::DeviceGuardImplInterface {
    [[nodiscard]] c10::DeviceType type() const override { return device.type(); }
    [[nodiscard]] c10::Device exchangeDevice(c10::Device) const override { return device; }
    [[nodiscard]] c10::Device getDevice() const override { return device; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    [[nodiscard]] c10::Stream getStream(c10::Device) const override {
        return c10::Stream(c10::Stream::DEFAULT, device);
    }
    [[nodiscard]] c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
    [[nodiscard]] c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
    [[nodiscard]] bool isBuilt() const override { return true; }
    [[nodiscard]] bool isAvailable() const override { return true; }
    [[nodiscard]] bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    [[nodiscard]] bool isPinnedPtr(const void* address) const override { return Pinned::allocator().holds(address); }
    [[nodiscard]] c10::Allocator* getPinnedMemoryAllocator() const override { return &Pinned::allocator(); }
};

void stray_pointer(int, siginfo_t* signal, void*) {
    if (Memory::of_device().holds(signal->si_addr)) {
        constexpr std::string_view text = "a pointer of the host into a tensor of the test device was used by:\n";
        [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
        std::array<void*, 40> calls{};
        backtrace_symbols_fd(calls.data(), backtrace(calls.data(), static_cast<int>(calls.size())), STDERR_FILENO);
    }
    std::signal(SIGSEGV, SIG_DFL);  // and then the same again
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("_copy_from", &copy);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_memory>()); }

torch::Device test_device() {
    static const Guard guard;
    static const c10::impl::DeviceGuardImplRegistrar registered(device.type(), &guard);
    static Hooks hooks;
    static const bool ready = [] {
        c10::register_privateuse1_backend("test");
        at::RegisterPrivateUse1HooksInterface(&hooks);
        return true;
    }();
    TORCH_INTERNAL_ASSERT(ready);
    return device;
}

std::int64_t DeviceWork::all_waits() const {
    std::int64_t all = 0;
    for (const auto& [name, count] : waits) all += count;
    return all;
}

DeviceWork DeviceWork::operator-(const DeviceWork& earlier) const {
    DeviceWork since{operators - earlier.operators, to_device - earlier.to_device, to_host - earlier.to_host, waits};
    for (const auto& [name, count] : earlier.waits) since.waits[name] -= count;
    std::erase_if(since.waits, [](const auto& one) { return one.second == 0; });
    return since;
}

DeviceWork device_work() { return work; }

std::int64_t device_allocations() { return Tensors::allocator().count(); }

void run_out_of_memory_at(std::int64_t allocation) { Tensors::allocator().end_at(allocation); }

void explain_stray_pointers() {
    struct sigaction action {};
    action.sa_sigaction = &stray_pointer;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
}

}  // namespace idistill::test
