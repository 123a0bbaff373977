#include "idistill/data/embedding_file.hpp"

#include <algorithm>
#include <utility>

#include "duplicate_ids.hpp"
#include "idistill/data/hdf5_handle.hpp"
#include "idistill/data/sha256.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t ids_at_once = 65536;
constexpr std::int64_t fingerprint_rows = 64;

}  // namespace

struct EmbeddingFile::Impl {
    h5::File file;
    h5::Dataset embedding;
    h5::Dataset id;
    std::string made_by;
    std::vector<std::int64_t> row_of;  ///< row of the corpus -> row of the file, -1 for none; empty: they are the same

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

    [[nodiscard]] std::vector<std::string> ids(RowRange rows) const {
        return h5::read_strings(file, id, rows.first, rows.count);
    }

    /// Whether every wanted row of the pool has its id in the same row of the file.
    [[nodiscard]] bool in_order(const ReadIds& read_ids, std::span<const std::uint8_t> wanted) const {
        const auto size = std::ssize(wanted);
        if (size != embedding.rows()) return false;
        for (std::int64_t first = 0; first < size; first += ids_at_once) {
            const RowRange rows{first, std::min(ids_at_once, size - first)};
            const auto mine = ids(rows), theirs = read_ids(rows);
            for (std::size_t i = 0; i < mine.size(); ++i)
                if (wanted[static_cast<std::size_t>(first) + i] != 0 && mine[i] != theirs[i]) return false;
        }
        return true;
    }

    /// Row of the file; -1 for none.
    static std::int64_t row_in(const std::vector<RowKey>& known, const std::string& name) {
        const auto key = key_of_id(name, 0);
        const auto found = std::lower_bound(known.begin(), known.end(), key, key_before);
        return found != known.end() && !key_before(key, *found) ? found->row : -1;
    }

    /// Ids of the file, sorted by key.
    [[nodiscard]] std::vector<RowKey> keys() const {
        std::vector<RowKey> all;
        all.reserve(static_cast<std::size_t>(embedding.rows()));
        for (std::int64_t first = 0; first < embedding.rows(); first += ids_at_once) {
            std::int64_t row = first;
            for (const auto& name : ids({first, std::min(ids_at_once, embedding.rows() - first)}))
                all.push_back(key_of_id(name, row++));
        }
        std::sort(all.begin(), all.end(), key_before);
        const auto twice = std::adjacent_find(all.begin(), all.end(),
                                              [](const RowKey& a, const RowKey& b) { return !key_before(a, b); });
        if (twice != all.end())
            h5::mismatch(file, "/id", "every id once",
                         "'" + ids({twice->row, 1}).front() + "' in rows " + std::to_string(twice->row) + " and " +
                             std::to_string((twice + 1)->row));
        return all;
    }

    void find_rows(const ReadIds& read_ids, std::span<const std::uint8_t> wanted) {
        const auto known = keys();
        const auto size = std::ssize(wanted);
        row_of.assign(wanted.size(), -1);
        std::int64_t missing = 0;
        std::string examples;
        for (std::int64_t first = 0; first < size; first += ids_at_once) {
            auto row = static_cast<std::size_t>(first);
            for (const auto& name : read_ids({first, std::min(ids_at_once, size - first)})) {
                const auto here = row++;
                if (wanted[here] == 0) continue;
                row_of[here] = row_in(known, name);
                if (row_of[here] < 0 && ++missing <= 3) {
                    examples += (examples.empty() ? "'" : ", '") + name + "'";
                }
            }
        }
        if (missing > 0)
            h5::mismatch(file, "/id", "the id of every usable sample",
                         std::to_string(missing) + " missing: " + examples + (missing > 3 ? ", ..." : ""));
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
        const auto id = impl_->ids({place, 1}).front();
        hash.update(std::as_bytes(std::span(id)));
    }
    return hexadecimal(hash.digest());
}

void EmbeddingFile::match(comm::Communicator& communicator, const Corpus& corpus,
                          std::span<const std::uint8_t> wanted) {
    match(
        communicator, [&corpus](RowRange rows) { return corpus.read_ids(rows); }, wanted);
}

void EmbeddingFile::match(comm::Communicator& communicator, const ReadIds& read_ids,
                          std::span<const std::uint8_t> wanted) {
    std::uint8_t ordered = 0;
    if (communicator.is_root()) {
        ordered = impl_->in_order(read_ids, wanted) ? 1 : 0;
        if (ordered == 0) impl_->find_rows(read_ids, wanted);
    }
    communicator.broadcast(std::span(&ordered, 1));
    if (ordered != 0) return;
    impl_->row_of.resize(wanted.size());
    communicator.broadcast(std::span(impl_->row_of));
}

std::vector<float> EmbeddingFile::read(std::span<const std::int64_t> rows) const {
    std::vector<float> values(rows.size() * static_cast<std::size_t>(width()));
    read(rows, values);
    return values;
}

void EmbeddingFile::read(std::span<const std::int64_t> rows, std::span<float> out) const {
    if (impl_->row_of.empty()) return read_at(rows, out);
    std::vector<std::int64_t> places;
    places.reserve(rows.size());
    for (const auto row : rows) places.push_back(impl_->row_of[static_cast<std::size_t>(row)]);
    read_at(places, out);
}

void EmbeddingFile::read_at(std::span<const std::int64_t> places, std::span<float> out) const {
    const auto columns = static_cast<std::size_t>(width());
    for (std::size_t i = 0; i < places.size();) {  // one read for a run of consecutive rows
        std::size_t end = i + 1;
        while (end < places.size() && places[end] == places[end - 1] + 1) ++end;
        h5::read_rows<float>(impl_->file, impl_->embedding, places[i], static_cast<std::int64_t>(end - i),
                             out.subspan(i * columns, (end - i) * columns));
        i = end;
    }
}

std::vector<std::int64_t> EmbeddingFile::find(std::span<const std::string> ids) const {
    const auto known = impl_->keys();
    std::vector<std::int64_t> rows;
    rows.reserve(ids.size());
    for (const auto& id : ids) rows.push_back(Impl::row_in(known, id));
    return rows;
}

}  // namespace idistill::data
