#pragma once
// Conversations in which a model rates samples (docs/files.md): what jobs/rate.py writes and --ratings reads.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {

/// Tokens of a sample's rating conversations; 0 where it has none.
struct RatingTokens {
    std::int32_t all = 0;
    std::int32_t longest = 0;  ///< of one of them
};

/// One open file: /tokens (total) i32, /offsets (n R + 1) i64, /id (n) strings, /prompt (R) strings, /rating_token (K)
/// i32; attributes `format`, `version`, `tokenizer_sha256`, `content_sha256`. Reading is independent on every rank.
class RatingFile {
public:
    /// Checks attributes, datasets and sizes. Throws Error(bad_input).
    explicit RatingFile(std::string path);
    ~RatingFile();
    RatingFile(RatingFile&&) noexcept;
    RatingFile& operator=(RatingFile&&) noexcept;

    [[nodiscard]] const std::string& path() const noexcept;
    [[nodiscard]] std::int64_t prompts() const noexcept;                            ///< R
    [[nodiscard]] const std::vector<std::int32_t>& rating_tokens() const noexcept;  ///< (K) of the ratings 1 to K
    [[nodiscard]] const std::string& tokenizer_sha256() const noexcept;
    [[nodiscard]] const std::string& content_sha256() const noexcept;

    /// Collective; rank 0 reads all ids. Finds every row of the corpus with wanted[row] != 0 by its id; the file may
    /// have others, in any order. Throws Error(bad_input) for an id that is missing or there twice.
    void match(comm::Communicator& communicator, const Corpus& corpus, std::span<const std::uint8_t> wanted);

    /// (rows of the corpus) after match(); of rows that were not wanted 0. Throws Error(bad_input) for offsets that
    /// descend or do not end with the tokens.
    [[nodiscard]] std::vector<RatingTokens> lengths(std::int64_t corpus_rows) const;

    /// The R conversations of each of these matched rows, in this order, without label mask. Throws Error(bad_input)
    /// for a token that is not below `vocabulary`.
    [[nodiscard]] Samples read(std::span<const std::int64_t> rows, std::int64_t vocabulary) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace idistill::data
