#pragma once

#include <cstdint>
#include <string>

namespace idistill::embedding {

struct EmbeddingSettings {
    std::string embedding = "jvp";  ///< --embedding: names of members.cpp joined by +, or auto
    std::int64_t jvp_blocks = 4;    ///< blocks that jvp and hidden run through
    std::int64_t embedding_dim = 4096;
};

struct JvpOptions {
    std::int64_t tangents = 2;
    std::int64_t rank = 8;  ///< 0: dense directions
};

}  // namespace idistill::embedding
