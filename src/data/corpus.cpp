#include <algorithm>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "corpus_scan.hpp"
#include "idistill/base/error.hpp"
#include "idistill/data/joints.hpp"
#include "idistill/data/row_runs.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::data {
namespace {

void append(Samples& all, const Samples& more) {
    if (all.offsets.empty()) all.offsets.push_back(0);
    const std::int64_t shift = all.offsets.back();
    all.tokens.insert(all.tokens.end(), more.tokens.begin(), more.tokens.end());
    all.label_mask.insert(all.label_mask.end(), more.label_mask.begin(), more.label_mask.end());
    for (std::size_t i = 1; i < more.offsets.size(); ++i) all.offsets.push_back(shift + more.offsets[i]);
}

/// Calls use(file, rows within it) for every file that holds some of the rows.
template <class Use>
void in_files(const std::vector<std::int64_t>& first_row, RowRange rows, const Use& use) {
    if (rows.first < 0 || rows.count < 0 || rows.end() > first_row.back()) {
        throw Error(ExitCode::internal_error, {.where = "corpus",
                                               .field = "rows",
                                               .expected = "0.." + std::to_string(first_row.back()),
                                               .found = std::to_string(rows.first) + "+" + std::to_string(rows.count),
                                               .remedy = ""});
    }
    for (std::size_t file = 0; file + 1 < first_row.size(); ++file) {
        const std::int64_t begin = std::max(rows.first, first_row[file]);
        const std::int64_t end = std::min(rows.end(), first_row[file + 1]);
        if (begin < end) use(file, RowRange{begin - first_row[file], end - begin});
    }
}

}  // namespace

Corpus::Corpus(std::vector<std::string> paths, std::int64_t vocabulary) : first_row_{0}, vocabulary_(vocabulary) {
    for (auto& path : paths) {
        files_.emplace_back(std::move(path));
        first_row_.push_back(first_row_.back() + files_.back().size());
    }
}

void Corpus::scan(comm::Communicator& communicator) {
    auto scanned = scan_corpus(communicator, files_, vocabulary_);
    index_ = std::move(scanned.index);
    contents_ = std::move(scanned.contents);
    for (std::size_t file = 0; file < files_.size(); ++file) {
        const auto offsets = files_[file].offsets();
        for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
            index_.tokens.push_back(static_cast<std::int32_t>(offsets[row + 1] - offsets[row]));
        }
    }
}

void Corpus::read_joints(comm::Communicator& communicator) {
    auto joints = std::make_shared<const Joints>(communicator, files_, vocabulary_);
    index_.joint = {joints->first(), joints->example_tokens(), joints->sha256()};
    joints_ = std::move(joints);
}

Samples Corpus::read(RowRange rows) const {
    Samples samples{.tokens = {}, .label_mask = {}, .offsets = {0}};
    in_files(first_row_, rows, [&](std::size_t file, RowRange within) {
        if (within.count == rows.count) {
            samples = files_[file].read(within);
        } else {
            append(samples, files_[file].read(within));
        }
    });
    return samples;
}

Samples Corpus::read(std::span<const std::int64_t> rows) const {
    Samples samples{.tokens = {}, .label_mask = {}, .offsets = {0}};
    for_each_run(rows, [&](std::size_t, RowRange run) { append(samples, read(run)); });
    return samples;
}

std::vector<std::string> Corpus::read_ids(RowRange rows) const {
    std::vector<std::string> ids;
    in_files(first_row_, rows, [&](std::size_t file, RowRange within) {
        auto more = files_[file].read_ids(within);
        ids.insert(ids.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    });
    return ids;
}

}  // namespace idistill::data
