// Rows, strings and attributes.

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "hdf5_types.hpp"
#include "idistill/data/hdf5_handle.hpp"

namespace idistill::h5 {
namespace {

/// One call of HDF5 moves at most this much: far below the 2 GiB at which counts of MPI-IO overflow.
constexpr std::int64_t bytes_per_call = std::int64_t{64} << 20U;

/// Selects rows [first, first + count) of the dataset; gives (selection in the file, shape of the memory).
std::pair<Handle, Handle> select_rows(const Dataset& dataset, std::int64_t first, std::int64_t count) {
    std::vector<hsize_t> start(dataset.shape.size(), 0);
    std::vector<hsize_t> size(dataset.shape.begin(), dataset.shape.end());
    start.front() = static_cast<hsize_t>(first);
    size.front() = static_cast<hsize_t>(count);
    Handle in_file(H5Dget_space(dataset.handle.get()), H5Sclose);
    H5Sselect_hyperslab(in_file.get(), H5S_SELECT_SET, start.data(), nullptr, size.data(), nullptr);
    Handle in_memory(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), H5Sclose);
    return {std::move(in_file), std::move(in_memory)};
}

void require_rows(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count,
                  std::size_t elements) {
    const bool inside = first >= 0 && count >= 0 && first + count <= dataset.rows();
    if (inside && elements == static_cast<std::size_t>(count * dataset.row_elements())) return;
    throw Error(ExitCode::internal_error,
                {.where = file.path,
                 .field = dataset.name,
                 .expected = "rows within 0.." + std::to_string(dataset.rows()) + " and a buffer of their size",
                 .found = std::to_string(first) + "+" + std::to_string(count) + ", buffer of " +
                          std::to_string(elements) + " elements",
                 .remedy = ""});
}

/// Calls move(first row, rows, first byte) for pieces of rows of bounded size.
template <class Move>
void in_pieces(std::int64_t first, std::int64_t count, std::int64_t row_bytes, const Move& move) {
    const std::int64_t step = std::max<std::int64_t>(1, bytes_per_call / std::max<std::int64_t>(1, row_bytes));
    for (std::int64_t done = 0; done < count; done += step) {
        move(first + done, std::min(step, count - done), static_cast<std::size_t>(done * row_bytes));
    }
}

Handle string_type(const Handle& stored) {
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    const bool variable = H5Tis_variable_str(stored.get()) > 0;
    H5Tset_size(type.get(), variable ? H5T_VARIABLE : H5Tget_size(stored.get()));
    H5Tset_strpad(type.get(), H5Tget_strpad(stored.get()));
    H5Tset_cset(type.get(), H5Tget_cset(stored.get()));  // HDF5 does not convert between character sets
    return type;
}

/// A fixed-length string without its padding.
std::string trimmed(const char* text, std::size_t bytes, H5T_str_t padding) {
    if (padding == H5T_STR_SPACEPAD) {
        while (bytes > 0 && text[bytes - 1] == ' ') --bytes;
        return {text, bytes};
    }
    return {text, ::strnlen(text, bytes)};
}

/// One call, under the lock; `count` rows from `first` on into or out of `memory`.
template <class Memory>
void move_rows(const File& file, const Dataset& dataset, hid_t type, std::int64_t first, std::int64_t count,
               Memory* memory) {
    constexpr bool writes = std::is_const_v<Memory>;
    const auto [in_file, in_memory] = select_rows(dataset, first, count);
    herr_t done = 0;
    if constexpr (writes)
        done = H5Dwrite(dataset.handle.get(), type, in_memory.get(), in_file.get(), H5P_DEFAULT, memory);
    else
        done = H5Dread(dataset.handle.get(), type, in_memory.get(), in_file.get(), H5P_DEFAULT, memory);
    if (done < 0) fail(file, dataset.name, writes ? "write" : "read");
}

std::vector<std::string> read_variable(const File& file, const Dataset& dataset, const Handle& type, std::int64_t first,
                                       std::int64_t count) {
    std::vector<char*> texts(static_cast<std::size_t>(count), nullptr);
    move_rows<void>(file, dataset, type.get(), first, count, texts.data());
    std::vector<std::string> values;
    values.reserve(texts.size());
    for (const char* text : texts) values.emplace_back(text == nullptr ? "" : text);
    H5Dvlen_reclaim(type.get(), select_rows(dataset, first, count).second.get(), H5P_DEFAULT, texts.data());
    return values;
}

std::vector<std::string> read_fixed(const File& file, const Dataset& dataset, const Handle& type, std::int64_t first,
                                    std::int64_t count) {
    const std::size_t bytes = H5Tget_size(type.get());
    std::vector<char> texts(static_cast<std::size_t>(count) * bytes);
    move_rows<void>(file, dataset, type.get(), first, count, texts.data());
    const H5T_str_t padding = H5Tget_strpad(type.get());
    std::vector<std::string> values;
    values.reserve(static_cast<std::size_t>(count));
    for (std::size_t at = 0; at < texts.size(); at += bytes) values.push_back(trimmed(&texts[at], bytes, padding));
    return values;
}

/// All rows of numbers, in pieces.
template <class T, class Byte>
void move_numbers(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count,
                  std::span<Byte> bytes) {
    require_rows(file, dataset, first, count, bytes.size() / sizeof(T));
    const auto row_bytes = dataset.row_elements() * static_cast<std::int64_t>(sizeof(T));
    if (row_bytes == 0) return;
    using Memory = std::conditional_t<std::is_const_v<Byte>, const void, void>;
    in_pieces(first, count, row_bytes, [&](std::int64_t row, std::int64_t rows, std::size_t byte) {
        const Lock lock;
        move_rows<Memory>(file, dataset, detail::facts_of(type_of<T>::value).memory, row, rows, bytes.data() + byte);
    });
}

struct Attribute {
    Handle handle;
    Handle type;
};

Attribute open_attribute(const File& file, const std::string& name) {
    if (!has_attribute(file, name)) mismatch(file, "attribute " + name, "a value", "nothing");
    Attribute attribute;
    attribute.handle = Handle(H5Aopen(file.handle.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!attribute.handle.valid()) fail(file, "attribute " + name, "open");
    attribute.type = Handle(H5Aget_type(attribute.handle.get()), H5Tclose);
    const Handle space(H5Aget_space(attribute.handle.get()), H5Sclose);
    if (H5Sget_simple_extent_npoints(space.get()) != 1) mismatch(file, "attribute " + name, "one value", "several");
    return attribute;
}

std::string read_text(const File& file, const std::string& name, const Attribute& attribute) {
    const Handle type = string_type(attribute.type);
    if (H5Tis_variable_str(type.get()) > 0) {
        char* text = nullptr;
        if (H5Aread(attribute.handle.get(), type.get(), static_cast<void*>(&text)) < 0) {
            fail(file, "attribute " + name, "read");
        }
        std::string value = text == nullptr ? "" : text;
        H5free_memory(text);
        return value;
    }
    std::vector<char> text(H5Tget_size(type.get()));
    if (H5Aread(attribute.handle.get(), type.get(), text.data()) < 0) fail(file, "attribute " + name, "read");
    return trimmed(text.data(), text.size(), H5Tget_strpad(type.get()));
}

template <class T>
T read_number(const File& file, const std::string& name, const Attribute& attribute) {
    T value{};
    if (H5Aread(attribute.handle.get(), detail::facts_of(type_of<T>::value).memory, &value) < 0) {
        fail(file, "attribute " + name, "read");
    }
    return value;
}

void put_attribute(const File& file, const std::string& name, hid_t disk_type, hid_t memory_type, const void* value) {
    if (has_attribute(file, name) && H5Adelete(file.handle.get(), name.c_str()) < 0) {
        fail(file, "attribute " + name, "replace");
    }
    const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    const Handle attribute(
        H5Acreate2(file.handle.get(), name.c_str(), disk_type, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (!attribute.valid() || H5Awrite(attribute.get(), memory_type, value) < 0) {
        fail(file, "attribute " + name, "write");
    }
}

}  // namespace

template <class T>
void read_rows(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count, std::span<T> out) {
    move_numbers<T>(file, dataset, first, count, std::as_writable_bytes(out));
}

template <class T>
void write_rows(const File& file, const Dataset& dataset, std::int64_t first, std::int64_t count,
                std::span<const T> values) {
    move_numbers<T>(file, dataset, first, count, std::as_bytes(values));
}

#define IDISTILL_H5_ROWS(T)                                                                            \
    template void read_rows<T>(const File&, const Dataset&, std::int64_t, std::int64_t, std::span<T>); \
    template void write_rows<T>(const File&, const Dataset&, std::int64_t, std::int64_t, std::span<const T>);
IDISTILL_H5_ROWS(std::uint8_t)
IDISTILL_H5_ROWS(std::int32_t)
IDISTILL_H5_ROWS(std::int64_t)
IDISTILL_H5_ROWS(std::uint64_t)
IDISTILL_H5_ROWS(float)
IDISTILL_H5_ROWS(double)
#undef IDISTILL_H5_ROWS

std::vector<std::string> read_strings(const File& file, const Dataset& dataset, std::int64_t first,
                                      std::int64_t count) {
    require_rows(file, dataset, first, count, static_cast<std::size_t>(count));
    if (count == 0) return {};
    const Lock lock;
    const Handle stored(H5Dget_type(dataset.handle.get()), H5Tclose);
    const Handle type = string_type(stored);
    return dataset.string_bytes == 0 ? read_variable(file, dataset, type, first, count)
                                     : read_fixed(file, dataset, type, first, count);
}

void write_strings(const File& file, const Dataset& dataset, std::int64_t first, std::span<const std::string> values) {
    const auto count = static_cast<std::int64_t>(values.size());
    require_rows(file, dataset, first, count, values.size());
    const auto bytes = static_cast<std::size_t>(dataset.string_bytes);
    in_pieces(first, count, dataset.string_bytes, [&](std::int64_t row, std::int64_t rows, std::size_t byte) {
        std::vector<char> texts(static_cast<std::size_t>(rows) * bytes, '\0');
        for (std::size_t i = 0; i < static_cast<std::size_t>(rows); ++i) {
            const std::string& value = values[byte / bytes + i];
            if (value.size() > bytes)
                mismatch(file, dataset.name, "at most " + std::to_string(bytes) + " bytes", value);
            std::copy(value.begin(), value.end(), texts.begin() + static_cast<std::ptrdiff_t>(i * bytes));
        }
        const Lock lock;
        const Handle stored(H5Dget_type(dataset.handle.get()), H5Tclose);
        move_rows<const void>(file, dataset, stored.get(), row, rows, texts.data());
    });
}

bool has_attribute(const File& file, const std::string& name) {
    const Lock lock;
    return H5Aexists(file.handle.get(), name.c_str()) > 0;
}

std::string text_attribute(const File& file, const std::string& name) {
    const Lock lock;
    const Attribute attribute = open_attribute(file, name);
    if (H5Tget_class(attribute.type.get()) != H5T_STRING) {
        mismatch(file, "attribute " + name, "a text", detail::type_name(attribute.type.get()));
    }
    return read_text(file, name, attribute);
}

std::int64_t integer_attribute(const File& file, const std::string& name) {
    const Lock lock;
    const Attribute attribute = open_attribute(file, name);
    if (H5Tget_class(attribute.type.get()) != H5T_INTEGER) {
        mismatch(file, "attribute " + name, "an integer", detail::type_name(attribute.type.get()));
    }
    return read_number<std::int64_t>(file, name, attribute);
}

void require_format(const File& file, const std::string& format, std::int64_t version) {
    const auto found = text_attribute(file, "format");
    if (found != format) mismatch(file, "attribute format", format, found);
    const auto number = integer_attribute(file, "version");
    if (number != version) mismatch(file, "attribute version", std::to_string(version), std::to_string(number));
}

std::string any_attribute(const File& file, const std::string& name) {
    const Lock lock;
    const Attribute attribute = open_attribute(file, name);
    switch (H5Tget_class(attribute.type.get())) {
        case H5T_STRING:
            return read_text(file, name, attribute);
        case H5T_INTEGER:
            return std::to_string(read_number<std::int64_t>(file, name, attribute));
        case H5T_FLOAT:
            return std::to_string(read_number<double>(file, name, attribute));
        default:
            mismatch(file, "attribute " + name, "a text or a number", detail::type_name(attribute.type.get()));
    }
}

void remove_attribute(const File& file, const std::string& name) {
    const Lock lock;
    if (has_attribute(file, name) && H5Adelete(file.handle.get(), name.c_str()) < 0)
        fail(file, "attribute " + name, "remove");
}

void write_attribute(const File& file, const std::string& name, const std::string& value) {
    const Lock lock;
    const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), H5T_VARIABLE);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    const char* text = value.c_str();
    put_attribute(file, name, type.get(), type.get(), static_cast<const void*>(&text));
}

void write_attribute(const File& file, const std::string& name, std::int64_t value) {
    const Lock lock;
    put_attribute(file, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void write_attribute(const File& file, const std::string& name, double value) {
    const Lock lock;
    put_attribute(file, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

}  // namespace idistill::h5
