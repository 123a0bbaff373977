#pragma once
// Part /joint of token files (docs/files.md): how samples stand in one conversation with others.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/rows.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {

/// What a conversation with others begins with, for some samples, concatenated. That of sample i is [offsets[i],
/// offsets[i+1]).
struct Examples {
    std::vector<std::int32_t> tokens;
    std::vector<std::int64_t> offsets;  ///< (samples + 1)
    [[nodiscard]] std::span<const std::int32_t> of(std::size_t sample) const {
        return std::span(tokens).subspan(static_cast<std::size_t>(offsets[sample]),
                                         static_cast<std::size_t>(offsets[sample + 1] - offsets[sample]));
    }
};

/// The parts of all files of a corpus. Held by every rank: 16 bytes a row.
class Joints {
public:
    /// Collective. Every block is read once, blocks shared out over the ranks: token ids below `vocabulary`,
    /// joint_sha256 correct. Throws Error(bad_input) naming file, dataset and row, also for a file without this part.
    Joints(comm::Communicator& comm, const std::vector<TokenFile>& files, std::int64_t vocabulary);
    ~Joints();
    Joints(Joints&&) noexcept;
    Joints& operator=(Joints&&) noexcept;

    /// Fingerprint of all files' parts, in order.
    [[nodiscard]] const std::string& sha256() const noexcept;
    /// (N) the token where the part of a sample begins that may follow another one; -1: none may.
    [[nodiscard]] std::vector<std::int32_t> first() const;
    /// (N) tokens with which a conversation begins that goes on with another sample.
    [[nodiscard]] std::vector<std::int32_t> example_tokens() const;
    /// Of these rows, whose samples are `samples`.
    [[nodiscard]] Examples examples(std::span<const std::int64_t> rows, const Samples& samples) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace idistill::data
