#include "idistill/data/sha256.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>  // join
#include <openssl/evp.h>

#include "idistill/base/error.hpp"

namespace idistill::data {
namespace {

void require(bool done) {
    if (done) return;
    throw Error(ExitCode::internal_error, {.where = "OpenSSL",
                                           .field = "SHA-256",
                                           .expected = "a digest",
                                           .found = "a failing call",
                                           .remedy = "Check this machine's OpenSSL installation."});
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const noexcept { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    require(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::update(std::span<const std::byte> bytes) {
    require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

Sha256Digest Sha256::digest() {
    Sha256Digest digest{};
    require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    return digest;
}

std::string hexadecimal(const Sha256Digest& digest) { return fmt::format("{:02x}", fmt::join(digest, "")); }

std::string sha256_of(std::span<const std::byte> bytes) {
    Sha256 hash;
    hash.update(bytes);
    return hexadecimal(hash.digest());
}

}  // namespace idistill::data
