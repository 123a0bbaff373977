#include "idistill/base/philox.hpp"

#include <cmath>
#include <numbers>

#include "idistill/base/hash.hpp"

namespace idistill {
namespace {

std::uint64_t fnv1a(std::uint64_t hash, std::string_view text) noexcept {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
    return (hash ^ 0xffU) * 0x100000001b3ULL;  // a terminator: ("a", "b") is not ("ab", "")
}

}  // namespace

// The counter holds 48 bits of row, 48 bits of column and 32 bits of the stream; the key the other 64 bits of the hash.
Philox::Philox(std::uint64_t seed, std::string_view purpose, std::string_view name) {
    const std::uint64_t hash = fnv1a(fnv1a(0xcbf29ce484222325ULL ^ mixed(seed + 0x9e3779b97f4a7c15ULL), purpose), name);
    key_ = mixed(hash);
    stream_ = static_cast<std::uint32_t>(mixed(hash ^ 0xa5a5a5a5a5a5a5a5ULL));
}

std::array<std::uint32_t, 4> Philox::words(std::uint64_t row, std::uint64_t column) const noexcept {
    std::array<std::uint32_t, 4> c{static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(column),
                                   static_cast<std::uint32_t>(((row >> 32U) & 0xffffU) | ((column >> 32U) << 16U)),
                                   stream_};
    auto k0 = static_cast<std::uint32_t>(key_);
    auto k1 = static_cast<std::uint32_t>(key_ >> 32U);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = 0xD2511F53ULL * c[0];
        const std::uint64_t p1 = 0xCD9E8D57ULL * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32U) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32U) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
        k0 += 0x9E3779B9U;
        k1 += 0xBB67AE85U;
    }
    return c;
}

std::array<float, 2> Philox::normals(std::uint64_t row, std::uint64_t column) const noexcept {
    const auto w = words(row, column);
    constexpr double unit = 1.0 / 18446744073709551616.0;  // 2^-64
    const double u = (static_cast<double>((std::uint64_t{w[0]} << 32U) | w[1]) + 0.5) * unit;
    const double v = static_cast<double>((std::uint64_t{w[2]} << 32U) | w[3]) * unit;
    const double radius = std::sqrt(-2.0 * std::log(u));
    const double angle = 2.0 * std::numbers::pi * v;
    return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
}

std::uint64_t Philox::below(std::uint64_t bound, std::uint64_t row, std::uint64_t column) const noexcept {
    for (std::uint64_t attempt = 0;; ++attempt) {
        const auto w = words(row, column + (attempt << 40U));
        const std::uint64_t x = (std::uint64_t{w[0]} << 32U) | w[1];
        const auto product = static_cast<unsigned __int128>(x) * bound;
        if (static_cast<std::uint64_t>(product) >= (0 - bound) % bound)
            return static_cast<std::uint64_t>(product >> 64U);
    }
}

}  // namespace idistill
