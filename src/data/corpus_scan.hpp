#pragma once

#include <cstdint>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {

/// Corpus::scan without the lengths, which need no reading: leaves CorpusIndex.tokens empty.
CorpusIndex scan_corpus(comm::Communicator& communicator, const std::vector<TokenFile>& files, std::int64_t vocabulary);

}  // namespace idistill::data
