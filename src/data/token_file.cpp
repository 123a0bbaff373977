#include "idistill/data/token_file.hpp"

#include <limits>
#include <utility>

#include "idistill/data/hdf5_handle.hpp"

namespace idistill::data {

struct TokenFile::Impl {
    h5::File file;
    h5::Dataset tokens;
    h5::Dataset label_mask;
    h5::Dataset id;
    h5::Dataset source;
    std::vector<std::int64_t> offsets;
    std::string tokenizer_sha256;
    std::string content_sha256;
    std::int64_t max_length = 0;

    explicit Impl(std::string path)
        : file(h5::open_read_only(std::move(path), ExitCode::bad_input, "Write the file again with jobs/prepare.py.")) {
        read_attributes();
        open_datasets();
        check_offsets();
    }

    void read_attributes() {
        h5::require_format(file, "idistill-tokens", 1);
        tokenizer_sha256 = h5::text_attribute(file, "tokenizer_sha256");
        content_sha256 = h5::text_attribute(file, "content_sha256");
        max_length = h5::integer_attribute(file, "max_length");
    }

    void open_datasets() {
        tokens = h5::open_dataset(file, "/tokens", h5::Type::i32, 1);
        label_mask = h5::open_dataset(file, "/label_mask", h5::Type::u8, 1);
        const h5::Dataset ends = h5::open_dataset(file, "/offsets", h5::Type::i64, 1);
        id = h5::open_strings(file, "/id");
        source = h5::open_strings(file, "/source");
        if (ends.rows() < 1) h5::mismatch(file, "/offsets", "N + 1 values", "none");
        require_size(label_mask, tokens.rows(), "as many as /tokens");
        require_size(id, ends.rows() - 1, "one less than /offsets");
        require_size(source, ends.rows() - 1, "one less than /offsets");
        offsets.resize(static_cast<std::size_t>(ends.rows()));
        h5::read_rows<std::int64_t>(file, ends, 0, ends.rows(), offsets);
    }

    void require_size(const h5::Dataset& dataset, std::int64_t rows, const std::string& why) const {
        if (dataset.rows() == rows) return;
        h5::mismatch(file, dataset.name, std::to_string(rows) + " values (" + why + ")",
                     std::to_string(dataset.rows()));
    }

    void check_offsets() const {
        if (offsets.front() != 0) h5::mismatch(file, "/offsets[0]", "0", std::to_string(offsets.front()));
        const std::int64_t longest = max_length > 0 ? max_length : std::numeric_limits<std::int32_t>::max();
        for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
            if (offsets[row + 1] < offsets[row]) {
                h5::mismatch(file, "/offsets[" + std::to_string(row + 1) + "]",
                             "at least " + std::to_string(offsets[row]), std::to_string(offsets[row + 1]));
            }
            if (offsets[row + 1] - offsets[row] > longest) {
                h5::mismatch(file, "sample " + std::to_string(row), "at most " + std::to_string(longest) + " tokens",
                             std::to_string(offsets[row + 1] - offsets[row]));
            }
        }
        if (offsets.back() != tokens.rows()) {
            h5::mismatch(file, "/offsets[" + std::to_string(offsets.size() - 1) + "]",
                         std::to_string(tokens.rows()) + " (the size of /tokens)", std::to_string(offsets.back()));
        }
    }
};

TokenFile::TokenFile(std::string path) : impl_(std::make_unique<Impl>(std::move(path))) {}
TokenFile::~TokenFile() = default;
TokenFile::TokenFile(TokenFile&&) noexcept = default;
TokenFile& TokenFile::operator=(TokenFile&&) noexcept = default;

const std::string& TokenFile::path() const noexcept { return impl_->file.path; }
std::int64_t TokenFile::size() const noexcept { return static_cast<std::int64_t>(impl_->offsets.size()) - 1; }
std::span<const std::int64_t> TokenFile::offsets() const noexcept { return impl_->offsets; }
const std::string& TokenFile::tokenizer_sha256() const noexcept { return impl_->tokenizer_sha256; }
const std::string& TokenFile::content_sha256() const noexcept { return impl_->content_sha256; }
std::int64_t TokenFile::max_length() const noexcept { return impl_->max_length; }

Samples TokenFile::read(RowRange rows) const {
    const auto& offsets = impl_->offsets;
    const std::int64_t begin = offsets.at(static_cast<std::size_t>(rows.first));
    const std::int64_t end = offsets.at(static_cast<std::size_t>(rows.end()));
    Samples samples;
    samples.tokens.resize(static_cast<std::size_t>(end - begin));
    samples.label_mask.resize(static_cast<std::size_t>(end - begin));
    h5::read_rows<std::int32_t>(impl_->file, impl_->tokens, begin, end - begin, samples.tokens);
    h5::read_rows<std::uint8_t>(impl_->file, impl_->label_mask, begin, end - begin, samples.label_mask);
    samples.offsets.reserve(static_cast<std::size_t>(rows.count) + 1);
    for (std::int64_t row = rows.first; row <= rows.end(); ++row) {
        samples.offsets.push_back(offsets[static_cast<std::size_t>(row)] - begin);
    }
    return samples;
}

std::vector<std::string> TokenFile::read_ids(RowRange rows) const {
    return h5::read_strings(impl_->file, impl_->id, rows.first, rows.count);
}

std::vector<std::string> TokenFile::read_sources(RowRange rows) const {
    return h5::read_strings(impl_->file, impl_->source, rows.first, rows.count);
}

}  // namespace idistill::data
