#pragma once
// Types on disk, in memory and in messages.

#include <string>

#include "idistill/data/hdf5_handle.hpp"

namespace idistill::h5::detail {

struct TypeFacts {
    hid_t disk;  ///< little-endian
    hid_t memory;
    const char* name;
};
TypeFacts facts_of(Type type);

/// "int32", "float64", "strings", ...
std::string type_name(hid_t type);

}  // namespace idistill::h5::detail
