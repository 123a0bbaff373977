#include "idistill/data/embedding_file.hpp"

#include <algorithm>
#include <utility>

#include "idistill/data/hdf5_handle.hpp"
#include "idistill/data/row_runs.hpp"
#include "idistill/data/sha256.hpp"
#include "rows_by_id.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t fingerprint_rows = 64;
constexpr std::int64_t hash_block_rows = 4096;

}  // namespace

struct EmbeddingFile::Impl {
    h5::File file;
    h5::Dataset embedding;
    h5::Dataset id;
    std::string made_by;
    RowsById rows;

    explicit Impl(std::string path)
        : file(h5::open_read_only(std::move(path), ExitCode::bad_input,
                                  "Write the file with idistill_mpi embed or jobs/embed.py, from these samples.")) {
        h5::require_format(file, embedding_format, embedding_version);
        made_by = h5::text_attribute(file, "made_by");
        embedding = h5::open_dataset(file, "/embedding", h5::Type::f32, 2);
        id = h5::open_strings(file, "/id");
        if (id.rows() != embedding.rows())
            h5::mismatch(file, "/id", std::to_string(embedding.rows()) + " values (as many as /embedding has rows)",
                         std::to_string(id.rows()) + " values");
        if (embedding.shape[1] < 1) h5::mismatch(file, "/embedding", "at least one column", "none");
    }
};

EmbeddingFile::EmbeddingFile(std::string path) : impl_(std::make_unique<Impl>(std::move(path))) {}
EmbeddingFile::~EmbeddingFile() = default;
EmbeddingFile::EmbeddingFile(EmbeddingFile&&) noexcept = default;
EmbeddingFile& EmbeddingFile::operator=(EmbeddingFile&&) noexcept = default;

std::int64_t EmbeddingFile::size() const noexcept { return impl_->embedding.rows(); }
std::int64_t EmbeddingFile::width() const noexcept { return impl_->embedding.shape[1]; }

std::string EmbeddingFile::fingerprint() const {
    Sha256 hash;
    const auto text = impl_->made_by + " " + std::to_string(size()) + " x " + std::to_string(width());
    hash.update(std::as_bytes(std::span(text)));
    std::vector<float> row(static_cast<std::size_t>(width()));
    const auto rows = std::min(fingerprint_rows, size());
    for (std::int64_t i = 0; i < rows; ++i) {
        const auto place = i * size() / rows;
        h5::read_rows<float>(impl_->file, impl_->embedding, place, 1, row);
        hash.update(std::as_bytes(std::span(row)));
        const auto id = h5::read_strings(impl_->file, impl_->id, place, 1).front();
        hash.update(std::as_bytes(std::span(id)));
    }
    return hexadecimal(hash.digest());
}

std::string EmbeddingFile::sha256(comm::Communicator& communicator) const {
    const auto blocks = (size() + hash_block_rows - 1) / hash_block_rows;
    std::vector<std::uint8_t> digests(static_cast<std::size_t>(blocks) * sizeof(Sha256Digest), 0);
    for (std::int64_t block = communicator.rank(); block < blocks; block += communicator.size()) {
        const auto first = block * hash_block_rows, count = std::min(hash_block_rows, size() - first);
        std::vector<float> values(static_cast<std::size_t>(count * width()));
        h5::read_rows<float>(impl_->file, impl_->embedding, first, count, values);
        Sha256 hash;
        hash.update(std::as_bytes(std::span(values)));
        const auto digest = hash.digest();
        std::copy(digest.begin(), digest.end(), digests.begin() + block * std::ssize(digest));
    }
    communicator.all_reduce<std::uint8_t>(digests, comm::Reduction::sum);  // zero but for the rank that filled it in
    return sha256_of(std::as_bytes(std::span(digests)));
}

void EmbeddingFile::match(comm::Communicator& communicator, const Corpus& corpus,
                          std::span<const std::uint8_t> wanted) {
    match(
        communicator, [&corpus](RowRange rows) { return corpus.read_ids(rows); }, wanted);
}

void EmbeddingFile::match(comm::Communicator& communicator, const ReadIds& read_ids,
                          std::span<const std::uint8_t> wanted) {
    impl_->rows.match(communicator, read_ids, wanted, impl_->file, impl_->id);
}

std::vector<float> EmbeddingFile::read(std::span<const std::int64_t> rows) const {
    std::vector<float> values(rows.size() * static_cast<std::size_t>(width()));
    read(rows, values);
    return values;
}

void EmbeddingFile::read(std::span<const std::int64_t> rows, std::span<float> out) const {
    std::vector<std::int64_t> places;
    places.reserve(rows.size());
    for (const auto row : rows) places.push_back(impl_->rows.of(row));
    read_at(places, out);
}

void EmbeddingFile::read_at(std::span<const std::int64_t> places, std::span<float> out) const {
    const auto columns = static_cast<std::size_t>(width());
    for_each_run(places, [&](std::size_t place, RowRange run) {
        h5::read_rows<float>(impl_->file, impl_->embedding, run.first, run.count,
                             out.subspan(place * columns, static_cast<std::size_t>(run.count) * columns));
    });
}

std::vector<std::int64_t> EmbeddingFile::find(std::span<const std::string> ids) const {
    return RowsById::find(impl_->file, impl_->id, ids);
}

}  // namespace idistill::data
