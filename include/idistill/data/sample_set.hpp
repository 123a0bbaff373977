#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "idistill/data/token_file.hpp"

namespace idistill::data {

/// Some rows of a corpus; their tokens are read once, when they are first asked for.
class SampleSet {
public:
    SampleSet(const Corpus& corpus, std::vector<std::int64_t> rows) : corpus_(corpus), rows_(std::move(rows)) {}

    [[nodiscard]] const Corpus& corpus() const noexcept { return corpus_; }
    [[nodiscard]] const std::vector<std::int64_t>& rows() const noexcept { return rows_; }
    [[nodiscard]] const Samples& samples() const {
        if (!samples_) samples_ = corpus_.read(rows_);
        return *samples_;
    }

private:
    const Corpus& corpus_;
    std::vector<std::int64_t> rows_;
    mutable std::optional<Samples> samples_;
};

}  // namespace idistill::data
