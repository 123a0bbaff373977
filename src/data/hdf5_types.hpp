#pragma once
// Types on disk, in memory and in messages.

#include <string>

#include "idistill/data/hdf5_handle.hpp"

namespace idistill::h5::detail {

hid_t disk_type(Type type);
hid_t memory_type(Type type);
std::size_t size_of(Type type);
std::string type_name(Type type);
/// "int32", "float64", "strings", ...
std::string type_name(hid_t type);

}  // namespace idistill::h5::detail
