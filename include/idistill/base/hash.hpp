#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace idistill {

/// The finaliser of splitmix64: spreads what differs over all bits.
constexpr std::uint64_t mixed(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27U)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31U);
}

/// FNV-1a over the bytes of values, texts and arrays; a text or an array enters with its length.
class Hash {
public:
    template <class T>
    void add(const T& value) {
        static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
        const auto* bytes = reinterpret_cast<const unsigned char*>(&value);
        for (std::size_t i = 0; i < sizeof value; ++i) state_ = (state_ ^ bytes[i]) * 0x100000001b3ULL;
    }
    template <class T>
    void add(const std::vector<T>& values) {
        add(values.size());
        for (const T& value : values) add(value);
    }
    void add(const std::string& text) {
        add(text.size());
        for (const char c : text) add(c);
    }
    [[nodiscard]] std::uint64_t value() const { return state_; }

private:
    std::uint64_t state_ = 0xcbf29ce484222325ULL;
};

}  // namespace idistill
