#include "idistill/data/rating_file.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "idistill/data/hdf5_handle.hpp"
#include "rows_by_id.hpp"

namespace idistill::data {
namespace {

constexpr std::int64_t offsets_at_once = std::int64_t{1} << 20;

}  // namespace

struct RatingFile::Impl {
    h5::File file;
    h5::Dataset tokens, offsets, id;
    std::int64_t prompts = 0;
    std::vector<std::int32_t> rating_tokens;
    std::string tokenizer_sha256, content_sha256;
    RowsById rows;

    explicit Impl(std::string path)
        : file(h5::open_read_only(std::move(path), ExitCode::bad_input,
                                  "Write the file with jobs/rate.py, from the samples of the pool.")) {
        h5::require_format(file, "idistill-ratings", 1);
        tokenizer_sha256 = h5::text_attribute(file, "tokenizer_sha256");
        content_sha256 = h5::text_attribute(file, "content_sha256");
        tokens = h5::open_dataset(file, "/tokens", h5::Type::i32, 1);
        offsets = h5::open_dataset(file, "/offsets", h5::Type::i64, 1);
        id = h5::open_strings(file, "/id");
        prompts = h5::open_strings(file, "/prompt").rows();
        if (prompts < 1) h5::mismatch(file, "/prompt", "at least one rating prompt", "none");
        const auto ratings = h5::open_dataset(file, "/rating_token", h5::Type::i32, 1);
        if (ratings.rows() < 2)
            h5::mismatch(file, "/rating_token", "the tokens of at least two ratings", std::to_string(ratings.rows()));
        rating_tokens.resize(static_cast<std::size_t>(ratings.rows()));
        h5::read_rows<std::int32_t>(file, ratings, 0, ratings.rows(), rating_tokens);
        if (offsets.rows() != id.rows() * prompts + 1)
            h5::mismatch(file, "/offsets",
                         std::to_string(id.rows() * prompts + 1) + " values (one more than conversations, " +
                             std::to_string(prompts) + " an id)",
                         std::to_string(offsets.rows()));
    }

    [[nodiscard]] std::vector<std::int64_t> read_offsets(std::int64_t first, std::int64_t count) const {
        std::vector<std::int64_t> values(static_cast<std::size_t>(count));
        h5::read_rows<std::int64_t>(file, offsets, first, count, values);
        return values;
    }

    /// Of every row of the file.
    [[nodiscard]] std::vector<RatingTokens> own_lengths() const {
        std::vector<RatingTokens> lengths(static_cast<std::size_t>(id.rows()));
        const auto block = std::max<std::int64_t>(1, offsets_at_once / prompts);
        std::int64_t end = 0;
        for (std::int64_t row = 0; row < id.rows(); row += block) {
            const auto count = std::min(block, id.rows() - row);
            const auto values = read_offsets(row * prompts, count * prompts + 1);
            if (values.front() != end) refuse_offset(row * prompts, end, values.front());
            for (std::size_t i = 0; i + 1 < values.size(); ++i) {
                const auto length = values[i + 1] - values[i];
                if (length < 0 || length > std::numeric_limits<std::int32_t>::max() / prompts)
                    refuse_offset(row * prompts + static_cast<std::int64_t>(i) + 1, values[i], values[i + 1]);
                auto& own = lengths[static_cast<std::size_t>(row) + i / static_cast<std::size_t>(prompts)];
                own.all += static_cast<std::int32_t>(length);
                own.longest = std::max(own.longest, static_cast<std::int32_t>(length));
            }
            end = values.back();
        }
        if (end != tokens.rows())
            h5::mismatch(file, "/offsets, the last", std::to_string(tokens.rows()) + " (the size of /tokens)",
                         std::to_string(end));
        return lengths;
    }

    [[noreturn]] void refuse_offset(std::int64_t place, std::int64_t before, std::int64_t found) const {
        h5::mismatch(file, "/offsets[" + std::to_string(place) + "]",
                     place == 0 ? "0" : "the end of a conversation that begins at " + std::to_string(before),
                     std::to_string(found));
    }

    /// Rows of the file that follow each other, to the end of `samples`.
    void append(Samples& samples, std::int64_t first, std::int64_t count, std::int64_t vocabulary) const {
        const auto ends = read_offsets(first * prompts, count * prompts + 1);
        const auto begin = samples.tokens.size();
        samples.tokens.resize(begin + static_cast<std::size_t>(ends.back() - ends.front()));
        const auto added = std::span(samples.tokens).subspan(begin);
        h5::read_rows<std::int32_t>(file, tokens, ends.front(), ends.back() - ends.front(), added);
        const auto wrong = std::find_if(added.begin(), added.end(),
                                        [&](std::int32_t token) { return token < 0 || token >= vocabulary; });
        if (wrong != added.end())
            h5::mismatch(file, "/tokens[" + std::to_string(ends.front() + (wrong - added.begin())) + "]",
                         "token ids 0.." + std::to_string(vocabulary - 1) + " (the rating model's vocabulary)",
                         std::to_string(*wrong));
        for (std::size_t i = 1; i < ends.size(); ++i)
            samples.offsets.push_back(static_cast<std::int64_t>(begin) + ends[i] - ends.front());
    }
};

RatingFile::RatingFile(std::string path) : impl_(std::make_unique<Impl>(std::move(path))) {}
RatingFile::~RatingFile() = default;
RatingFile::RatingFile(RatingFile&&) noexcept = default;
RatingFile& RatingFile::operator=(RatingFile&&) noexcept = default;

const std::string& RatingFile::path() const noexcept { return impl_->file.path; }
std::int64_t RatingFile::prompts() const noexcept { return impl_->prompts; }
const std::vector<std::int32_t>& RatingFile::rating_tokens() const noexcept { return impl_->rating_tokens; }
const std::string& RatingFile::tokenizer_sha256() const noexcept { return impl_->tokenizer_sha256; }
const std::string& RatingFile::content_sha256() const noexcept { return impl_->content_sha256; }

void RatingFile::match(comm::Communicator& communicator, const Corpus& corpus, std::span<const std::uint8_t> wanted) {
    impl_->rows.match(
        communicator, [&corpus](RowRange rows) { return corpus.read_ids(rows); }, wanted, impl_->file, impl_->id);
}

std::vector<RatingTokens> RatingFile::lengths(std::int64_t corpus_rows) const {
    const auto own = impl_->own_lengths();
    std::vector<RatingTokens> lengths(static_cast<std::size_t>(corpus_rows));
    for (std::int64_t row = 0; row < corpus_rows; ++row)
        if (const auto place = impl_->rows.of(row); place >= 0)
            lengths[static_cast<std::size_t>(row)] = own[static_cast<std::size_t>(place)];
    return lengths;
}

Samples RatingFile::read(std::span<const std::int64_t> rows, std::int64_t vocabulary) const {
    Samples samples{.tokens = {}, .label_mask = {}, .offsets = {0}};
    for (std::size_t i = 0; i < rows.size();) {  // one read for a run of consecutive rows
        const auto first = impl_->rows.of(rows[i]);
        std::size_t end = i + 1;
        while (end < rows.size() && impl_->rows.of(rows[end]) == first + static_cast<std::int64_t>(end - i)) ++end;
        impl_->append(samples, first, static_cast<std::int64_t>(end - i), vocabulary);
        i = end;
    }
    return samples;
}

}  // namespace idistill::data
