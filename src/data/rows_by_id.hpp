#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/hdf5_handle.hpp"
#include "idistill/data/read_ids.hpp"

namespace idistill::data {

/// Where rows lie in a file that has ids.
class RowsById {
public:
    /// Collective; rank 0 reads all ids. Finds every row with wanted[row] != 0 by its id; the file may have others, in
    /// any order. Throws Error(bad_input) for an id that is missing or there twice.
    void match(comm::Communicator& communicator, const ReadIds& read_ids, std::span<const std::uint8_t> wanted,
               const h5::File& file, const h5::Dataset& id);

    /// Rows of the file with these ids, -1 for one that is not there. Throws Error(bad_input) for one that is there
    /// twice.
    static std::vector<std::int64_t> find(const h5::File& file, const h5::Dataset& id,
                                          std::span<const std::string> ids);

    /// Row of the file; -1 for none.
    [[nodiscard]] std::int64_t of(std::int64_t row) const {
        return row_of_.empty() ? row : row_of_[static_cast<std::size_t>(row)];
    }

private:
    std::vector<std::int64_t> row_of_;  ///< empty: they are the same
};

}  // namespace idistill::data
