#pragma once
// Samples that one already has (--held): their ids, and where they are.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/embedding_file.hpp"
#include "idistill/data/read_ids.hpp"

namespace idistill::selection {

struct Held {
    std::vector<std::int64_t> pool_rows;  ///< of those that are in the pool
    std::vector<std::int64_t> file_rows;  ///< of all, in the embedding file; empty without one
};

/// Collective; rank 0 reads. The file is a result, whose /selected/id counts, or a text with an id on every line. They
/// are looked for in the pool and, where there is one, in the embedding file, which must have all of them; without one
/// the pool must. Throws Error(bad_input) on rank 0, naming ids that are missing or there twice.
Held find_held(comm::Communicator& comm, const std::string& path, std::int64_t pool_rows, const data::ReadIds& read_ids,
               const data::EmbeddingFile* file);

}  // namespace idistill::selection
