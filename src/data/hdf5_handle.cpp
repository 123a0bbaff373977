#include "idistill/data/hdf5_handle.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "hdf5_types.hpp"
#include "idistill/base/lfs_pointer.hpp"

namespace idistill::h5 {
namespace {

std::recursive_mutex& library_mutex() {
    static std::recursive_mutex mutex;
    return mutex;
}

/// The innermost message of HDF5's error stack says what happened, the ones around it only which calls were on the way.
std::string error_text() {
    std::string text;
    const auto keep_first = [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
        auto& kept = *static_cast<std::string*>(data);
        if (kept.empty() && error->desc != nullptr) kept = error->desc;
        return 0;
    };
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &text);
    return text.empty() ? "unknown error" : text;
}

std::vector<std::int64_t> shape_of_space(hid_t space) {
    std::vector<hsize_t> sizes(static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space))));
    H5Sget_simple_extent_dims(space, sizes.data(), nullptr);
    return {sizes.begin(), sizes.end()};
}

Dataset open_any(const File& file, const std::string& name) {
    if (!has_link(file, name)) mismatch(file, name, "a dataset", "nothing");
    Dataset dataset;
    dataset.name = name;
    dataset.handle = Handle(H5Dopen2(file.handle.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
    if (!dataset.handle.valid()) fail(file, name, "open");
    const Handle space(H5Dget_space(dataset.handle.get()), H5Sclose);
    dataset.shape = shape_of_space(space.get());
    return dataset;
}

Dataset create(const File& file, const std::string& name, hid_t type, std::vector<std::int64_t> shape) {
    const std::vector<hsize_t> sizes(shape.begin(), shape.end());
    const Handle space(H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose);
    const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Pset_create_intermediate_group(links.get(), 1);
    H5Pset_char_encoding(links.get(), H5T_CSET_UTF8);
    const Handle options(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    H5Pset_layout(options.get(), H5D_CONTIGUOUS);
    H5Pset_alloc_time(options.get(), H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(options.get(), H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(options.get(), false);
    Dataset dataset;
    dataset.name = name;
    dataset.shape = std::move(shape);
    dataset.handle =
        Handle(H5Dcreate2(file.handle.get(), name.c_str(), type, space.get(), links.get(), options.get(), H5P_DEFAULT),
               H5Dclose);
    if (!dataset.handle.valid()) fail(file, name, "create");
    return dataset;
}

}  // namespace

namespace detail {

TypeFacts facts_of(Type type) {
    switch (type) {
        case Type::u8:
            return {H5T_STD_U8LE, H5T_NATIVE_UINT8, "uint8"};
        case Type::i32:
            return {H5T_STD_I32LE, H5T_NATIVE_INT32, "int32"};
        case Type::i64:
            return {H5T_STD_I64LE, H5T_NATIVE_INT64, "int64"};
        case Type::u64:
            return {H5T_STD_U64LE, H5T_NATIVE_UINT64, "uint64"};
        case Type::f32:
            return {H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, "float32"};
        case Type::f64:
            return {H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, "float64"};
    }
    return {-1, -1, ""};
}

std::string type_name(hid_t type) {
    const std::string bits = std::to_string(8 * H5Tget_size(type));
    switch (H5Tget_class(type)) {
        case H5T_INTEGER:
            return (H5Tget_sign(type) == H5T_SGN_NONE ? "uint" : "int") + bits;
        case H5T_FLOAT:
            return "float" + bits;
        case H5T_STRING:
            return "strings";
        case H5T_ENUM:
            return "an enumeration";
        default:
            return "another type";
    }
}

}  // namespace detail

Lock::Lock() : lock_(library_mutex()) {
    static const bool silent = [] {
        H5dont_atexit();  // a file given up on a failure must not be closed after MPI is gone
        H5open();
        return H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
    }();
    (void)silent;
}

Handle& Handle::operator=(Handle&& other) noexcept {
    if (this != &other) {
        (void)close();
        close_ = other.close_;
        id_ = other.release();
    }
    return *this;
}

hid_t Handle::release() noexcept { return std::exchange(id_, -1); }

bool Handle::close() noexcept {
    if (!valid()) return true;
    const Lock lock;
    return close_(release()) >= 0;
}

std::int64_t Dataset::row_elements() const noexcept {
    std::int64_t elements = 1;
    for (std::size_t axis = 1; axis < shape.size(); ++axis) elements *= shape[axis];
    return elements;
}

void fail(const File& file, const std::string& object, const std::string& action) {
    std::string found = "that HDF5 could not " + action + " it: " + error_text();
    std::error_code error;
    const auto space = std::filesystem::space(std::filesystem::path(file.path).parent_path() / ".", error);
    if (!error) found += " (" + std::to_string(space.available >> 20U) + " MiB free there)";
    throw Error(file.code,
                {.where = file.path, .field = object, .expected = "", .found = found, .remedy = file.remedy});
}

void mismatch(const File& file, const std::string& object, const std::string& expected, const std::string& found) {
    throw Error(file.code,
                {.where = file.path, .field = object, .expected = expected, .found = found, .remedy = file.remedy});
}

File open_read_only(std::string path, ExitCode code, std::string remedy) {
    const Lock lock;
    File file{{}, std::move(path), code, std::move(remedy)};
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file.path, ignored)) {
        file.remedy = "Check the path, and that every node sees the file.";
        mismatch(file, "", "an HDF5 file", "no such file");
    }
    const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(access.get(), false, true);
#endif
    file.handle = Handle(H5Fopen(file.path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    if (!file.handle.valid()) {
        const auto found = error_text();
        const auto pointer = lfs_remedy(file.path);
        if (pointer) file.remedy = *pointer;
        mismatch(file, "", "a whole HDF5 file", pointer ? "a Git LFS pointer" : found);
    }
    return file;
}

bool has_link(const File& file, const std::string& name) {
    const Lock lock;
    for (std::size_t end = name.find('/', 1);; end = name.find('/', end + 1)) {  // every group on the way must exist
        const std::string part = name.substr(0, end);
        if (H5Lexists(file.handle.get(), part.c_str(), H5P_DEFAULT) <= 0) return false;
        if (end == std::string::npos) return true;
    }
}

void remove_link(const File& file, const std::string& name) {
    const Lock lock;
    if (has_link(file, name) && H5Ldelete(file.handle.get(), name.c_str(), H5P_DEFAULT) < 0) fail(file, name, "remove");
}

Dataset open_dataset(const File& file, const std::string& name, Type type, std::size_t rank) {
    const Lock lock;
    Dataset dataset = open_any(file, name);
    const Handle stored(H5Dget_type(dataset.handle.get()), H5Tclose);
    const std::string wanted = detail::facts_of(type).name;
    const auto found = detail::type_name(stored.get());
    if (found != wanted) mismatch(file, name, wanted + " values", found);
    if (dataset.shape.size() != rank) {
        mismatch(file, name, std::to_string(rank) + " dimension(s)", std::to_string(dataset.shape.size()));
    }
    return dataset;
}

Dataset open_strings(const File& file, const std::string& name) {
    const Lock lock;
    Dataset dataset = open_any(file, name);
    const Handle stored(H5Dget_type(dataset.handle.get()), H5Tclose);
    if (H5Tget_class(stored.get()) != H5T_STRING) mismatch(file, name, "strings", detail::type_name(stored.get()));
    if (dataset.shape.size() != 1) mismatch(file, name, "1 dimension", std::to_string(dataset.shape.size()));
    if (H5Tis_variable_str(stored.get()) <= 0) {
        dataset.string_bytes = static_cast<std::int64_t>(H5Tget_size(stored.get()));
    }
    return dataset;
}

std::vector<std::int64_t> shape_of(const File& file, const std::string& name) {
    const Lock lock;
    return open_any(file, name).shape;
}

Dataset create_dataset(const File& file, const std::string& name, Type type, std::vector<std::int64_t> shape) {
    const Lock lock;
    return create(file, name, detail::facts_of(type).disk, std::move(shape));
}

Dataset create_strings(const File& file, const std::string& name, std::int64_t rows, std::int64_t bytes) {
    const Lock lock;
    bytes = std::max<std::int64_t>(bytes, 1);
    Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), static_cast<std::size_t>(bytes));
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    Dataset dataset = create(file, name, type.get(), {rows});
    dataset.string_bytes = bytes;
    return dataset;
}

}  // namespace idistill::h5
