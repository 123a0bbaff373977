#pragma once

#include <cstdint>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {

struct ScannedCorpus {
    CorpusIndex index;             ///< without the lengths, which need no reading: tokens is empty
    std::vector<RowKey> contents;  ///< of this rank's samples that have labels
};

/// Corpus::scan.
ScannedCorpus scan_corpus(comm::Communicator& communicator, const std::vector<TokenFile>& files,
                          std::int64_t vocabulary);

}  // namespace idistill::data
