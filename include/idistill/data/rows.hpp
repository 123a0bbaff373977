#pragma once
// Rows of a pool or of targets, and what is known of each: plain data, without files.

#include <cstdint>
#include <string>
#include <vector>

namespace idistill::data {

/// Consecutive rows [first, first + count).
struct RowRange {
    std::int64_t first = 0;
    std::int64_t count = 0;
    [[nodiscard]] std::int64_t end() const noexcept { return first + count; }
    friend bool operator==(const RowRange&, const RowRange&) = default;
};

/// Tokens of some samples, concatenated without padding. Sample i is [offsets[i], offsets[i+1]).
struct Samples {
    std::vector<std::int32_t> tokens;      ///< (total)
    std::vector<std::uint8_t> label_mask;  ///< (total); 1 where the loss of predicting this token counts
    std::vector<std::int64_t> offsets;     ///< (samples + 1)
    [[nodiscard]] std::int64_t size() const noexcept { return static_cast<std::int64_t>(offsets.size()) - 1; }
};

/// How samples stand in one conversation with others: sizes N, or 0 where nothing asks for it.
struct JointIndex {
    std::vector<std::int32_t> first;    ///< token where the part begins that may follow another sample; -1: none may
    std::vector<std::int32_t> example;  ///< tokens with which a conversation begins that goes on with another sample
    std::string sha256;                 ///< fingerprint of these parts of all files, in order
};

/// What a full scan of a corpus yields; sizes N. Held by every rank (a few bytes a row).
struct CorpusIndex {
    std::vector<std::int32_t> tokens;       ///< length of every sample in tokens
    std::vector<std::int32_t> labels;       ///< label tokens that can be predicted (a label on the first token cannot)
    std::vector<std::int32_t> last_label;   ///< position of the last of them within the sample; -1 if none
    std::vector<std::int32_t> source;       ///< index into source_names
    std::vector<std::string> source_names;  ///< sorted, distinct
    std::int64_t longest_id = 0;            ///< bytes of the longest id
    std::string content_sha256;             ///< fingerprint of all files, in order
    JointIndex joint;
    [[nodiscard]] std::int64_t size() const noexcept { return static_cast<std::int64_t>(tokens.size()); }
};

}  // namespace idistill::data
