#include "idistill/data/joints.hpp"

#include <algorithm>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/data/hdf5_handle.hpp"
#include "idistill/data/sha256.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t hash_block_rows = 65'536;  // part of the file format
constexpr const char* remedy = "Write the file again with jobs/prepare.py.";

/// What a token file says of joints; its tails are read when they are asked for.
struct Part {
    h5::File file;
    h5::Dataset tail;
    std::string sha256;
    std::vector<std::int32_t> first, kept;  ///< (rows)
    std::vector<std::int64_t> offsets;      ///< (rows + 1) of the tails

    explicit Part(const TokenFile& tokens) : file(h5::open_read_only(tokens.path(), ExitCode::bad_input, remedy)) {
        if (!h5::has_link(file, "/joint"))
            throw Error(ExitCode::bad_input,
                        {tokens.path(), "/joint", "how samples stand in one conversation with others",
                         "nothing: an earlier version of jobs/prepare.py wrote the file, or another tool",
                         "Prepare it again with jobs/prepare.py, from the same files and with the same options."});
        sha256 = h5::text_attribute(file, "joint_sha256");
        const auto rows = tokens.size();
        first = read<std::int32_t>("/joint/first", rows);
        kept = read<std::int32_t>("/joint/kept", rows);
        offsets = read<std::int64_t>("/joint/offsets", rows + 1);
        tail = h5::open_dataset(file, "/joint/tail", h5::Type::i32, 1);
        for (std::int64_t row = 0; row < rows; ++row) check(row, tokens.offsets());
        if (offsets.front() != 0 || offsets.back() != tail.rows())
            h5::mismatch(file, "/joint/offsets", "0 to " + std::to_string(tail.rows()) + " (the size of /joint/tail)",
                         std::to_string(offsets.front()) + " to " + std::to_string(offsets.back()));
    }

    template <class T>
    std::vector<T> read(const std::string& name, std::int64_t rows) const {
        const auto dataset = h5::open_dataset(file, name, h5::type_of<T>::value, 1);
        if (dataset.rows() != rows)
            h5::mismatch(file, name, std::to_string(rows) + " values", std::to_string(dataset.rows()));
        std::vector<T> values(static_cast<std::size_t>(rows));
        h5::read_rows<T>(file, dataset, 0, rows, values);
        return values;
    }

    void check(std::int64_t row, std::span<const std::int64_t> samples) const {
        const auto i = static_cast<std::size_t>(row);
        const auto tokens = samples[i + 1] - samples[i];
        const auto refuse = [&](const std::string& name, const std::string& expected, std::int64_t found) {
            h5::mismatch(file, name + "[" + std::to_string(row) + "]", expected, std::to_string(found));
        };
        if (first[i] < -1 || first[i] > std::max<std::int64_t>(tokens - 1, -1))
            refuse("/joint/first", "a token of the sample, or -1", first[i]);
        if (kept[i] < 0 || kept[i] > tokens)
            refuse("/joint/kept", "at most " + std::to_string(tokens) + ", the tokens of the sample", kept[i]);
        if (offsets[i + 1] < offsets[i]) refuse("/joint/offsets", "values that do not descend", offsets[i + 1]);
        if (first[i] >= 0 && kept[i] + tail_tokens(row) == 0) refuse("/joint/kept", "an example with tokens", 0);
    }

    [[nodiscard]] std::int64_t rows() const { return std::ssize(first); }
    [[nodiscard]] std::int64_t tail_tokens(std::int64_t row) const {
        const auto i = static_cast<std::size_t>(row);
        return offsets[i + 1] - offsets[i];
    }
    [[nodiscard]] std::vector<std::int32_t> read_tails(RowRange rows) const {
        const auto begin = offsets[static_cast<std::size_t>(rows.first)];
        const auto count = offsets[static_cast<std::size_t>(rows.end())] - begin;
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
        if (count > 0) h5::read_rows<std::int32_t>(file, tail, begin, count, tokens);
        return tokens;
    }

    /// Digest of a block, whose tokens are checked.
    [[nodiscard]] Sha256Digest digest(RowRange rows, std::int64_t vocabulary) const {
        const auto part = [&](const auto& values, std::int64_t more) {
            return std::as_bytes(std::span(values).subspan(static_cast<std::size_t>(rows.first),
                                                           static_cast<std::size_t>(rows.count + more)));
        };
        const auto tokens = read_tails(rows);
        for (const auto token : tokens)
            if (token < 0 || token >= vocabulary)
                throw Error(ExitCode::bad_input,
                            {file.path, "/joint/tail",
                             "token ids 0.." + std::to_string(vocabulary - 1) + " (the model's vocabulary)",
                             std::to_string(token), "Write the file again with jobs/prepare.py and this model."});
        Sha256 hash;
        hash.update(part(first, 0));
        hash.update(part(kept, 0));
        hash.update(part(offsets, 1));
        hash.update(std::as_bytes(std::span(tokens)));
        return hash.digest();
    }
};

std::int64_t blocks_of(const Part& part) { return (part.rows() + hash_block_rows - 1) / hash_block_rows; }

}  // namespace

struct Joints::Impl {
    std::vector<Part> parts;
    std::string sha256;
};

Joints::Joints(comm::Communicator& comm, const std::vector<TokenFile>& files, std::int64_t vocabulary)
    : impl_(std::make_unique<Impl>()) {
    auto& parts = impl_->parts;
    std::int64_t blocks = 0;
    for (const auto& file : files) blocks += blocks_of(parts.emplace_back(file));
    std::vector<std::uint8_t> digests(static_cast<std::size_t>(blocks) * 32, 0);
    std::int64_t block = 0;
    for (const auto& part : parts)
        for (std::int64_t row = 0; row < part.rows(); row += hash_block_rows, ++block) {
            if (block % comm.size() != comm.rank()) continue;
            const auto digest = part.digest({row, std::min(hash_block_rows, part.rows() - row)}, vocabulary);
            std::copy(digest.begin(), digest.end(), digests.begin() + block * 32);
        }
    comm.all_reduce<std::uint8_t>(digests, comm::Reduction::sum);  // zero but for the rank that filled it in
    Sha256 all;
    auto rest = std::span<const std::uint8_t>(digests);
    for (const auto& part : parts) {
        const auto own = rest.first(static_cast<std::size_t>(blocks_of(part)) * 32);
        rest = rest.subspan(own.size());
        const auto found = sha256_of(std::as_bytes(own));
        if (comm.is_root() && found != part.sha256)
            throw Error(ExitCode::bad_input,
                        {part.file.path, "attribute joint_sha256", part.sha256, found,
                         "The file changed after it was written: write it again with jobs/prepare.py."});
        all.update(std::as_bytes(std::span(found)));
    }
    impl_->sha256 = hexadecimal(all.digest());
}

Joints::~Joints() = default;
Joints::Joints(Joints&&) noexcept = default;
Joints& Joints::operator=(Joints&&) noexcept = default;

const std::string& Joints::sha256() const noexcept { return impl_->sha256; }

std::vector<std::int32_t> Joints::first() const {
    std::vector<std::int32_t> all;
    for (const auto& part : impl_->parts) all.insert(all.end(), part.first.begin(), part.first.end());
    return all;
}

std::vector<std::int32_t> Joints::example_tokens() const {
    std::vector<std::int32_t> all;
    for (const auto& part : impl_->parts)
        for (std::int64_t row = 0; row < part.rows(); ++row)
            all.push_back(part.kept[static_cast<std::size_t>(row)] + static_cast<std::int32_t>(part.tail_tokens(row)));
    return all;
}

Examples Joints::examples(std::span<const std::int64_t> rows, const Samples& samples) const {
    Examples examples{{}, {0}};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        auto row = rows[i];
        auto part = impl_->parts.begin();
        while (row >= part->rows()) row -= (part++)->rows();
        const auto begin = samples.tokens.begin() + samples.offsets[i];
        examples.tokens.insert(examples.tokens.end(), begin, begin + part->kept[static_cast<std::size_t>(row)]);
        const auto tail = part->read_tails({row, 1});
        examples.tokens.insert(examples.tokens.end(), tail.begin(), tail.end());
        examples.offsets.push_back(std::ssize(examples.tokens));
    }
    return examples;
}

}  // namespace idistill::data
