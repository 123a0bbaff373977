#pragma once
// Token files for tests, written through the HDF5 C API and hashed straight from the definition in docs/files.md.

#include <hdf5.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

namespace idistill::test {

/// What a token file says; tests damage it before it is written.
struct TokenContent {
    std::vector<std::int32_t> tokens;
    std::vector<std::uint8_t> label_mask;
    std::vector<std::int64_t> offsets{0};
    std::vector<std::string> ids;
    std::vector<std::string> sources;

    std::string format = "idistill-tokens";
    std::int64_t version = 1;
    std::int64_t max_length = 2048;
    std::string content_sha256;  ///< empty: the right one
    std::string leave_out;       ///< a dataset or attribute that is not written
    bool wide_tokens = false;    ///< /tokens as int64
    bool fixed_strings = false;

    void add(const std::string& id, const std::string& source, const std::vector<std::int32_t>& sample,
             const std::vector<std::uint8_t>& mask) {
        tokens.insert(tokens.end(), sample.begin(), sample.end());
        label_mask.insert(label_mask.end(), mask.begin(), mask.end());
        offsets.push_back(static_cast<std::int64_t>(tokens.size()));
        ids.push_back(id);
        sources.push_back(source);
    }
};

inline std::string sha256_of(const std::string& bytes) {
    std::string digest(32, '\0');
    EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr, EVP_sha256(),
               nullptr);
    return digest;
}

inline std::string hex_of(const std::string& bytes) {
    std::string text;
    for (const char c : bytes) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
        text += two;
    }
    return text;
}

/// Every block's bytes written out in full, then hashed.
inline std::string straight_content_sha256(const TokenContent& content) {
    std::string digests;
    const std::size_t rows = content.ids.size();
    for (std::size_t i0 = 0; i0 < rows; i0 += 65'536) {
        const std::size_t i1 = std::min(rows, i0 + 65'536);
        const auto t0 = static_cast<std::size_t>(content.offsets[i0]);
        const auto t1 = static_cast<std::size_t>(content.offsets[i1]);
        std::string bytes(reinterpret_cast<const char*>(content.tokens.data() + t0), 4 * (t1 - t0));
        bytes.append(reinterpret_cast<const char*>(content.label_mask.data() + t0), t1 - t0);
        bytes.append(reinterpret_cast<const char*>(content.offsets.data() + i0), 8 * (i1 - i0 + 1));
        for (std::size_t i = i0; i < i1; ++i) bytes += content.ids[i] + '\0';
        for (std::size_t i = i0; i < i1; ++i) bytes += content.sources[i] + '\0';
        digests += sha256_of(bytes);
    }
    return hex_of(sha256_of(digests));
}

namespace detail {

inline void put_vector(hid_t file, const char* name, hid_t disk, hid_t memory, const void* values, std::size_t rows) {
    const hsize_t size = rows;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t dataset = H5Dcreate2(file, name, disk, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (rows > 0) H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(dataset);
    H5Sclose(space);
}

inline void put_strings(hid_t file, const char* name, const std::vector<std::string>& values, bool fixed) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    if (fixed) {
        std::size_t longest = 1;
        for (const auto& value : values) longest = std::max(longest, value.size());
        H5Tset_size(type, longest);
        H5Tset_strpad(type, H5T_STR_NULLPAD);
        std::string all;
        for (const auto& value : values) all += value + std::string(longest - value.size(), '\0');
        put_vector(file, name, type, type, all.data(), values.size());
    } else {
        H5Tset_size(type, H5T_VARIABLE);
        std::vector<const char*> all;
        for (const auto& value : values) all.push_back(value.c_str());
        put_vector(file, name, type, type, all.data(), values.size());
    }
    H5Tclose(type);
}

inline void put_attribute(hid_t file, const char* name, hid_t type, const void* value) {
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
}

inline void put_text(hid_t file, const char* name, const std::string& value, bool fixed) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    H5Tset_size(type, fixed ? std::max<std::size_t>(1, value.size()) : H5T_VARIABLE);
    if (fixed) H5Tset_strpad(type, H5T_STR_NULLPAD);
    const char* text = value.c_str();
    put_attribute(file, name, type, fixed ? static_cast<const void*>(text) : static_cast<const void*>(&text));
    H5Tclose(type);
}

}  // namespace detail

inline void write_token_file(const std::string& path, const TokenContent& content) {
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const auto wanted = [&](const char* name) { return content.leave_out != name; };
    const std::string hash = content.content_sha256.empty() ? straight_content_sha256(content) : content.content_sha256;
    const bool fixed = content.fixed_strings;
    if (wanted("format")) detail::put_text(file, "format", content.format, fixed);
    if (wanted("version")) detail::put_attribute(file, "version", H5T_NATIVE_INT64, &content.version);
    if (wanted("tokenizer_sha256")) detail::put_text(file, "tokenizer_sha256", std::string(64, 'a'), fixed);
    if (wanted("max_length")) detail::put_attribute(file, "max_length", H5T_NATIVE_INT64, &content.max_length);
    if (wanted("content_sha256")) detail::put_text(file, "content_sha256", hash, fixed);
    if (wanted("/tokens")) {
        detail::put_vector(file, "tokens", content.wide_tokens ? H5T_STD_I64LE : H5T_STD_I32LE, H5T_NATIVE_INT32,
                           content.tokens.data(), content.tokens.size());
    }
    if (wanted("/label_mask")) {
        detail::put_vector(file, "label_mask", H5T_STD_U8LE, H5T_NATIVE_UINT8, content.label_mask.data(),
                           content.label_mask.size());
    }
    if (wanted("/offsets")) {
        detail::put_vector(file, "offsets", H5T_STD_I64LE, H5T_NATIVE_INT64, content.offsets.data(),
                           content.offsets.size());
    }
    if (wanted("/id")) detail::put_strings(file, "id", content.ids, fixed);
    if (wanted("/source")) detail::put_strings(file, "source", content.sources, fixed);
    H5Fclose(file);
}

}  // namespace idistill::test
