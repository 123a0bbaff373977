#pragma once
// A small state: its stages, values for its units, and damage to its file.

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "idistill/work/state_file.hpp"

namespace idistill::test {

inline const std::string identity = R"({"seed": 43, "model": {"dtype": "fp32", "path": "m"}, "pool": ["a", "b"]})";

/// Two stages: 10 rows in 4 units with two columns, and one without rows. A row is as wide as its column says.
inline std::vector<plan::Stage> stages() {
    return {{.name = "pool",
             .title = {},
             .columns = {{"influence", 3}, {"norm", 1}},
             .units = {{{0, 4}, 1.0}, {{4, 1}, 1.0}, {{5, 3}, 1.0}, {{8, 2}, 1.0}}},
            {.name = "targets", .title = {}, .columns = {{"sketch", 5}}, .units = {}}};
}

/// Values that no other place has; NaN and -0.0 among them.
inline std::vector<float> values(data::RowRange rows, std::int64_t width, float column) {
    std::vector<float> all;
    for (std::int64_t row = rows.first; row < rows.end(); ++row) {
        for (std::int64_t i = 0; i < width; ++i) {
            all.push_back(static_cast<float>(row * 16 + i) + column);
        }
    }
    if (rows.first == 5) all[0] = std::numeric_limits<float>::quiet_NaN();
    if (rows.first == 8) all[0] = -0.0F;
    return all;
}

inline void write(work::StateFile& state, std::int64_t unit) {
    const data::RowRange rows = stages()[0].units[static_cast<std::size_t>(unit)].rows;
    const auto influence = values(rows, 3, 0.25F);
    const auto norm = values(rows, 1, 0.5F);
    const std::vector<std::span<const float>> columns{influence, norm};
    state.write_unit("pool", unit, columns);
}

inline bool holds(const work::StateFile& state, std::int64_t unit) {
    const data::RowRange rows = stages()[0].units[static_cast<std::size_t>(unit)].rows;
    const auto same = [&](const char* column, std::int64_t width, float shift) {
        std::vector<float> found(static_cast<std::size_t>(rows.count * width));
        state.read("pool", column, rows, found);
        const auto wanted = values(rows, width, shift);
        return std::memcmp(found.data(), wanted.data(), found.size() * sizeof(float)) == 0;
    };
    return same("influence", 3, 0.25F) && same("norm", 1, 0.5F);
}

inline std::vector<std::uint8_t> marks(const work::StateFile& state) {
    const auto found = state.recovered("pool");
    return {found.begin(), found.end()};
}

/// Changes one byte of a dataset where it lies in the file, which nobody has open.
inline void flip_byte(const std::string& path, const char* dataset, std::int64_t byte, int bits = 0x10) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t opened = H5Dopen2(file, dataset, H5P_DEFAULT);
    const auto at = static_cast<off_t>(H5Dget_offset(opened)) + byte;
    H5Dclose(opened);
    H5Fclose(file);
    const int descriptor = ::open(path.c_str(), O_RDWR);
    char value = 0;
    const bool read = ::pread(descriptor, &value, 1, at) == 1;
    value = static_cast<char>(value ^ bits);
    const bool written = read && ::pwrite(descriptor, &value, 1, at) == 1;
    ::close(descriptor);
    if (!written) throw std::runtime_error("no byte to change in " + path);
}

}  // namespace idistill::test
