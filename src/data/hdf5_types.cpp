#include "hdf5_types.hpp"

namespace idistill::h5::detail {

hid_t disk_type(Type type) {
    switch (type) {
        case Type::u8:
            return H5T_STD_U8LE;
        case Type::i32:
            return H5T_STD_I32LE;
        case Type::i64:
            return H5T_STD_I64LE;
        case Type::u64:
            return H5T_STD_U64LE;
        case Type::f32:
            return H5T_IEEE_F32LE;
        case Type::f64:
            return H5T_IEEE_F64LE;
    }
    return -1;
}

hid_t memory_type(Type type) {
    switch (type) {
        case Type::u8:
            return H5T_NATIVE_UINT8;
        case Type::i32:
            return H5T_NATIVE_INT32;
        case Type::i64:
            return H5T_NATIVE_INT64;
        case Type::u64:
            return H5T_NATIVE_UINT64;
        case Type::f32:
            return H5T_NATIVE_FLOAT;
        case Type::f64:
            return H5T_NATIVE_DOUBLE;
    }
    return -1;
}

std::size_t size_of(Type type) {
    switch (type) {
        case Type::u8:
            return 1;
        case Type::i32:
        case Type::f32:
            return 4;
        case Type::i64:
        case Type::u64:
        case Type::f64:
            return 8;
    }
    return 0;
}

std::string type_name(Type type) {
    switch (type) {
        case Type::u8:
            return "uint8";
        case Type::i32:
            return "int32";
        case Type::i64:
            return "int64";
        case Type::u64:
            return "uint64";
        case Type::f32:
            return "float32";
        case Type::f64:
            return "float64";
    }
    return "";
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

}  // namespace idistill::h5::detail
