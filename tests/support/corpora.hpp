#pragma once
// Corpora as their scan leaves them, from the lengths of their samples.

#include <cstdint>
#include <vector>

#include "idistill/data/rows.hpp"

namespace idistill::test {

struct Sample {
    std::int32_t tokens = 0;
    std::int32_t labels = 0;  ///< the last of the tokens
    std::int32_t source = 0;  ///< code, maths
};

inline data::CorpusIndex corpus(const std::vector<Sample>& samples) {
    data::CorpusIndex index;
    for (const auto& sample : samples) {
        index.tokens.push_back(sample.tokens);
        index.labels.push_back(sample.labels);
        index.last_label.push_back(sample.labels > 0 ? sample.tokens - 1 : -1);
        index.source.push_back(sample.source);
    }
    index.source_names = {"code", "maths"};
    index.longest_id = 32;
    return index;
}

/// Usable samples of 4 to 8 tokens, two of them labels, of both sources in turn.
inline data::CorpusIndex good_pool(std::int64_t rows) {
    std::vector<Sample> samples;
    for (std::int64_t i = 0; i < rows; ++i)
        samples.push_back({static_cast<std::int32_t>(4 + i % 5), 2, static_cast<std::int32_t>(i % 2)});
    return corpus(samples);
}

}  // namespace idistill::test
