#pragma once
// Embeddings of a pool in a file: what `idistill_mpi embed` writes and `--embedding FILE` reads.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/read_ids.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {

inline constexpr const char* embedding_format = "idistill-embedding";
inline constexpr std::int64_t embedding_version = 1;

/// One open file: attributes `format`, `version` and `made_by` (text: what the rows are), /embedding (n x e) f32, /id
/// (n) strings. Reading is independent on every rank.
class EmbeddingFile {
public:
    /// Checks attributes, datasets and sizes. Throws Error(bad_input).
    explicit EmbeddingFile(std::string path);
    ~EmbeddingFile();
    EmbeddingFile(EmbeddingFile&&) noexcept;
    EmbeddingFile& operator=(EmbeddingFile&&) noexcept;

    [[nodiscard]] std::int64_t size() const noexcept;
    [[nodiscard]] std::int64_t width() const noexcept;  ///< e
    /// sha256 of `made_by`, the sizes and at most 64 rows from everywhere in the file, with their ids.
    [[nodiscard]] std::string fingerprint() const;
    /// Collective: of all rows, which ranks read side by side, in hexadecimal.
    [[nodiscard]] std::string sha256(comm::Communicator& communicator) const;

    /// Collective; rank 0 reads all ids. Finds every row of the corpus with wanted[row] != 0 by its id; the file may
    /// hold more, in any order. Throws Error(bad_input) on rank 0 for an id that is missing, with how many are, or
    /// that is there twice. Keeps 8 bytes a row of the corpus, unless the file has its order.
    void match(comm::Communicator& communicator, const Corpus& corpus, std::span<const std::uint8_t> wanted);
    /// The same where ids come from elsewhere: `read_ids` is called on rank 0.
    void match(comm::Communicator& communicator, const ReadIds& read_ids, std::span<const std::uint8_t> wanted);

    /// (rows x e) of these wanted rows of the matched corpus, in this order.
    [[nodiscard]] std::vector<float> read(std::span<const std::int64_t> rows) const;
    void read(std::span<const std::int64_t> rows, std::span<float> out) const;

    /// Rows of the file with these ids, -1 for one that is not there. Throws Error(bad_input) for an id that is there
    /// twice.
    [[nodiscard]] std::vector<std::int64_t> find(std::span<const std::string> ids) const;
    /// (places x e) of these rows of the file.
    void read_at(std::span<const std::int64_t> places, std::span<float> out) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace idistill::data
