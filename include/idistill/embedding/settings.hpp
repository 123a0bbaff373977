#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace idistill::embedding {

struct EmbeddingSettings {
    std::string embedding = "jvp";  ///< --embedding: names of members.cpp joined by +, or auto
    std::int64_t jvp_blocks = 4;    ///< blocks that jvp and hidden run through
    std::int64_t embedding_dim = 4096;
};

struct JvpSettings {
    std::int64_t tangents = 2;        ///< K
    std::int64_t direction_rank = 8;  ///< r of every direction; 0: dense, as published
};

/// What was read of the files that --embedding names, before anything is planned from it: a plan opens none.
struct EmbeddingFiles {
    struct Facts {
        std::int64_t width = 0;   ///< numbers of a row
        std::string fingerprint;  ///< of the content
    };
    std::map<std::string, Facts> by_path;
};

}  // namespace idistill::embedding
