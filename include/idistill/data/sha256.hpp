#pragma once
// SHA-256 (OpenSSL's): fingerprints of files and weights.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace idistill::data {

using Sha256Digest = std::array<std::uint8_t, 32>;

class Sha256 {
public:
    Sha256();
    void update(std::span<const std::byte> bytes);
    /// Ends the hash.
    Sha256Digest digest();

private:
    struct Free {
        void operator()(evp_md_ctx_st* context) const noexcept;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

/// Lower-case hexadecimal.
std::string hexadecimal(const Sha256Digest& digest);

/// The hash of these bytes alone, 64 lower-case hexadecimal digits.
std::string sha256_of(std::span<const std::byte> bytes);

}  // namespace idistill::data
