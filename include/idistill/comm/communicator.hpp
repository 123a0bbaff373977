#pragma once
// The one handle through which ranks exchange data. No domain types, no MPI types; two back ends: MPI, and ranks as
// threads (tests). Host memory travels by MPI, memory of the ranks' GPUs by NCCL.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace idistill::comm {

enum class ElementType { u8, i32, i64, u32, u64, f32, f64, end };  ///< end: how many there are

/// C++ type -> ElementType; a type without a specialisation does not build.
template <class T>
struct element_type_of;
template <>
struct element_type_of<std::uint8_t> : std::integral_constant<ElementType, ElementType::u8> {};
template <>
struct element_type_of<std::int32_t> : std::integral_constant<ElementType, ElementType::i32> {};
template <>
struct element_type_of<std::int64_t> : std::integral_constant<ElementType, ElementType::i64> {};
template <>
struct element_type_of<std::uint32_t> : std::integral_constant<ElementType, ElementType::u32> {};
template <>
struct element_type_of<std::uint64_t> : std::integral_constant<ElementType, ElementType::u64> {};
template <>
struct element_type_of<float> : std::integral_constant<ElementType, ElementType::f32> {};
template <>
struct element_type_of<double> : std::integral_constant<ElementType, ElementType::f64> {};

enum class Reduction { sum, max, min };

class WorkClaims;  // claims.hpp

/// Collectives over one kind of memory, the host's or that of the ranks' GPUs: every rank calls them in the same order
/// with matching sizes. Counts are elements, 64-bit. Waits are bounded: when ranks do not arrive within the stall
/// timeout, throws Error(ExitCode::restart_me) that names them.
class Collectives {
public:
    virtual ~Collectives() = default;
    Collectives(const Collectives&) = delete;
    Collectives& operator=(const Collectives&) = delete;

    /// After the call `data` holds the root's values on every rank.
    template <class T>
    void broadcast(std::span<T> data, int root = 0) {
        broadcast_raw(data.data(), data.size(), element_type_of<T>::value, root);
    }

    /// In place. Sums of floating-point values are refused at compile time: their order would depend on the rank count.
    template <class T>
    void all_reduce(std::span<T> data, Reduction reduction) {
        static_assert(!std::is_floating_point_v<T>,
                      "reduce floats by all_reduce_disjoint, or gather them and add in block order");
        all_reduce_raw(data.data(), data.size(), element_type_of<T>::value, reduction);
    }

    /// Every element is non-zero (bitwise) on at most one rank; summed as unsigned integers, exact for NaN and -0.0.
    void all_reduce_disjoint(std::span<float> data) {
        all_reduce_raw(data.data(), data.size(), ElementType::u32, Reduction::sum);
    }
    void all_reduce_disjoint(std::span<double> data) {
        all_reduce_raw(data.data(), data.size(), ElementType::u64, Reduction::sum);
    }

protected:
    Collectives() = default;

    virtual void broadcast_raw(void* data, std::size_t count, ElementType type, int root) = 0;
    virtual void all_reduce_raw(void* data, std::size_t count, ElementType type, Reduction reduction) = 0;
};

/// The ranks of a job, and their collectives over host memory. All members but rank(), size() and device() are
/// collective.
class Communicator : public Collectives {
public:
    [[nodiscard]] virtual int rank() const noexcept = 0;
    [[nodiscard]] virtual int size() const noexcept = 0;
    [[nodiscard]] bool is_root() const noexcept { return rank() == 0; }

    /// Collectives over the memory of the ranks' GPUs; null where connect_devices (device_collectives.hpp) was not
    /// called.
    [[nodiscard]] virtual Collectives* device() noexcept { return nullptr; }

    virtual void barrier() = 0;

    /// Every rank's values (sizes may differ, also zero), one vector a rank, in rank order; empty on ranks other than
    /// root.
    template <class T>
    std::vector<std::vector<T>> gather(std::span<const T> mine, int root = 0) {
        return split<T>(gather_raw(mine.data(), mine.size() * sizeof(T), root));
    }

    /// As gather, on every rank.
    template <class T>
    std::vector<std::vector<T>> all_gather(std::span<const T> mine) {
        return split<T>(all_gather_raw(mine.data(), mine.size() * sizeof(T)));
    }
    /// Every rank's text, in rank order, on every rank.
    std::vector<std::string> all_gather(const std::string& mine) {
        std::vector<std::string> texts;
        for (const auto& part : all_gather(std::span<const char>(mine))) texts.emplace_back(part.begin(), part.end());
        return texts;
    }

    /// To be called as make_work_claims, which documents it.
    virtual std::unique_ptr<WorkClaims> make_claims(std::span<const std::int64_t> order,
                                                    std::function<void(std::int64_t)> on_finished) = 0;

protected:
    virtual std::vector<std::vector<std::byte>> gather_raw(const void* mine, std::size_t bytes, int root) = 0;
    virtual std::vector<std::vector<std::byte>> all_gather_raw(const void* mine, std::size_t bytes) = 0;

private:
    template <class T>
    static std::vector<std::vector<T>> split(const std::vector<std::vector<std::byte>>& parts) {
        static_assert(std::is_trivially_copyable_v<T>);
        std::vector<std::vector<T>> values(parts.size());
        for (std::size_t rank = 0; rank < parts.size(); ++rank) {
            values[rank].resize(parts[rank].size() / sizeof(T));
            if (!parts[rank].empty()) std::memcpy(values[rank].data(), parts[rank].data(), parts[rank].size());
        }
        return values;
    }
};

}  // namespace idistill::comm
