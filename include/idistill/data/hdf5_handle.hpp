#pragma once
// HDF5 for the modules data and io: owned handles, calls that throw, typed rows and strings. Nobody else includes
// hdf5.h.
//
// Every function may be called from any thread (one lock around the library, which is not thread-safe by itself) and
// throws Error naming file and object. A call on a file opened in parallel is collective where HDF5's is: creating and
// removing objects, attributes, closing the file; reading and writing rows is independent.

#include <hdf5.h>

#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "idistill/base/error.hpp"

namespace idistill::h5 {

/// Holds the library's lock; HDF5's own error printing is off from the first one on. Recursive.
class Lock {
public:
    Lock();

private:
    std::unique_lock<std::recursive_mutex> lock_;
};

/// Owns an HDF5 identifier.
class Handle {
public:
    using Close = herr_t (*)(hid_t);

    Handle() = default;
    Handle(hid_t id, Close close) : id_(id), close_(close) {}
    ~Handle() { (void)close(); }
    Handle(Handle&& other) noexcept : id_(other.release()), close_(other.close_) {}
    Handle& operator=(Handle&& other) noexcept;
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;

    [[nodiscard]] hid_t get() const noexcept { return id_; }
    [[nodiscard]] bool valid() const noexcept { return id_ >= 0; }
    /// Gives the identifier up without closing it.
    hid_t release() noexcept;
    /// False when HDF5 could not close it (data not written, for a file).
    bool close() noexcept;

private:
    hid_t id_ = -1;
    Close close_ = nullptr;
};

/// An open file and how its failures are reported.
struct File {
    Handle handle;
    std::string path;
    ExitCode code = ExitCode::internal_error;
    std::string remedy;
};

/// What an element is; the same names in messages as in docs/files.md.
enum class Type { u8, i32, i64, u64, f32, f64 };

template <class T>
struct type_of;
template <>
struct type_of<std::uint8_t> : std::integral_constant<Type, Type::u8> {};
template <>
struct type_of<std::int32_t> : std::integral_constant<Type, Type::i32> {};
template <>
struct type_of<std::int64_t> : std::integral_constant<Type, Type::i64> {};
template <>
struct type_of<std::uint64_t> : std::integral_constant<Type, Type::u64> {};
template <>
struct type_of<float> : std::integral_constant<Type, Type::f32> {};
template <>
struct type_of<double> : std::integral_constant<Type, Type::f64> {};

struct Dataset {
    Handle handle;
    std::string name;
    std::vector<std::int64_t> shape;
    std::int64_t string_bytes = 0;  ///< of a dataset of fixed-length strings

    [[nodiscard]] std::int64_t rows() const noexcept { return shape.empty() ? 0 : shape.front(); }
    [[nodiscard]] std::int64_t row_elements() const noexcept;
};

/// Throws with what HDF5 says about the call that just failed. `action`: "read", "create", ...
[[noreturn]] void fail(const File& file, const std::string& object, const std::string& action);
/// Throws for a content that is not what it should be.
[[noreturn]] void mismatch(const File& file, const std::string& object, const std::string& expected,
                           const std::string& found);

/// The driver of one process, read-only, without file locks (parallel file systems often have none).
File open_read_only(std::string path, ExitCode code, std::string remedy);

[[nodiscard]] bool has_link(const File& file, const std::string& name);
/// Removes an object if it is there.
void remove_link(const File& file, const std::string& name);

/// A dataset of exactly this type and rank; anything else, a missing one too, is an error that says what was found.
Dataset open_dataset(const File& file, const std::string& name, Type type, std::size_t rank);
/// A vector of strings, of variable or fixed length.
Dataset open_strings(const File& file, const std::string& name);
/// Sizes of a dataset of any type.
std::vector<std::int64_t> shape_of(const File& file, const std::string& name);

/// Contiguous, allocated at once, never filled, no times: little-endian on disk. Groups on the way are created.
Dataset create_dataset(const File& file, const std::string& name, Type type, std::vector<std::int64_t> shape);
/// UTF-8 strings of `bytes` bytes, padded with zero bytes.
Dataset create_strings(const File& file, const std::string& name, std::int64_t rows, std::int64_t bytes);

/// Rows [first, first + count) along the first dimension, row-major, in pieces of bounded size.
template <class T>
void read_rows(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count, std::span<T> out);
template <class T>
void write_rows(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count,
                std::span<const T> values);
std::vector<std::string> read_strings(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count);
void write_strings(const File& file, const Dataset& dataset, std::int64_t first, std::span<const std::string> values);

/// Attributes of the root group.
[[nodiscard]] bool has_attribute(const File& file, const std::string& name);
[[nodiscard]] std::string text_attribute(const File& file, const std::string& name);
[[nodiscard]] std::int64_t integer_attribute(const File& file, const std::string& name);
/// Throws unless the attributes format and version are these.
void require_format(const File& file, const std::string& format, std::int64_t version);
/// A text attribute as it is, a number as text.
[[nodiscard]] std::string any_attribute(const File& file, const std::string& name);
/// Replace one that is there. Texts have variable length, so that h5py shows them as str.
void remove_attribute(const File& file, const std::string& name);  ///< also where there is none
void write_attribute(const File& file, const std::string& name, const std::string& value);
void write_attribute(const File& file, const std::string& name, std::int64_t value);
void write_attribute(const File& file, const std::string& name, double value);

}  // namespace idistill::h5
