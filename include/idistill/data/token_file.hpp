#pragma once
// Token files (docs/files.md): what jobs/prepare.py writes and every rank reads.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/row_key.hpp"
#include "idistill/data/rows.hpp"

namespace idistill::data {

/// One open token file. Not collective; reading is independent on every rank.
class TokenFile {
public:
    /// Checks attributes, datasets, their types and sizes and the offsets. Throws Error(bad_input).
    explicit TokenFile(std::string path);
    ~TokenFile();
    TokenFile(TokenFile&&) noexcept;
    TokenFile& operator=(TokenFile&&) noexcept;

    [[nodiscard]] const std::string& path() const noexcept;
    [[nodiscard]] std::int64_t size() const noexcept;
    [[nodiscard]] std::span<const std::int64_t> offsets() const noexcept;  ///< (N + 1)
    [[nodiscard]] const std::string& tokenizer_sha256() const noexcept;
    [[nodiscard]] const std::string& content_sha256() const noexcept;
    [[nodiscard]] std::int64_t max_length() const noexcept;

    [[nodiscard]] Samples read(RowRange rows) const;
    [[nodiscard]] std::vector<std::string> read_ids(RowRange rows) const;
    [[nodiscard]] std::vector<std::string> read_sources(RowRange rows) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

class Joints;  // joints.hpp

/// One or several token files read as one corpus: rows of the files one after the other.
class Corpus {
public:
    /// `vocabulary` is the model's number of token ids. Opens every file on every rank; call scan() before use.
    Corpus(std::vector<std::string> paths, std::int64_t vocabulary);

    /// Collective. Reads every sample once, blocks shared out over the ranks: token ids below the vocabulary, masks 0
    /// or 1, content_sha256 correct, ids not repeated (over all files). Throws Error(bad_input) naming file, dataset,
    /// row.
    void scan(comm::Communicator& communicator);

    /// Collective, after the scan. Reads how its samples stand in one conversation with others, and notes it in the
    /// index. Throws Error(bad_input), also for a file that does not say it.
    void read_joints(comm::Communicator& communicator);
    /// After read_joints().
    [[nodiscard]] const Joints& joints() const { return *joints_; }

    /// Keys of the contents of this rank's samples that have labels, once after the scan: they take 24 bytes each.
    [[nodiscard]] std::vector<RowKey> take_contents() { return std::exchange(contents_, {}); }

    [[nodiscard]] const CorpusIndex& index() const noexcept { return index_; }
    [[nodiscard]] const std::vector<TokenFile>& files() const noexcept { return files_; }
    [[nodiscard]] std::int64_t size() const noexcept { return first_row_.back(); }

    [[nodiscard]] Samples read(RowRange rows) const;
    /// The samples of these rows, in this order.
    [[nodiscard]] Samples read(std::span<const std::int64_t> rows) const;
    [[nodiscard]] std::vector<std::string> read_ids(RowRange rows) const;

private:
    std::vector<TokenFile> files_;
    std::vector<std::int64_t> first_row_;  ///< (files + 1)
    std::int64_t vocabulary_;
    CorpusIndex index_;
    std::vector<RowKey> contents_;
    std::shared_ptr<const Joints> joints_;
};

}  // namespace idistill::data
