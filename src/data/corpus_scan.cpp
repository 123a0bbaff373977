#include "corpus_scan.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <map>
#include <set>
#include <string>

#include "duplicate_ids.hpp"
#include "idistill/base/error.hpp"
#include "idistill/data/overlap.hpp"
#include "idistill/data/sha256.hpp"

namespace idistill::data {
namespace {

static_assert(std::endian::native == std::endian::little, "content_sha256 is defined over little-endian bytes");

constexpr std::int64_t hash_block_rows = 65'536;                   // part of the file format
constexpr std::int64_t tokens_per_read = std::int64_t{16} << 20U;  // 80 MiB with their masks

/// Samples that are hashed together; one rank reads them all.
struct Block {
    std::size_t file = 0;
    RowRange rows;               ///< within the file
    std::int64_t first_row = 0;  ///< of the corpus
};

std::vector<Block> blocks_of(const std::vector<TokenFile>& files) {
    std::vector<Block> blocks;
    std::int64_t file_start = 0;
    for (std::size_t file = 0; file < files.size(); ++file) {
        for (std::int64_t row = 0; row < files[file].size(); row += hash_block_rows) {
            const std::int64_t count = std::min(hash_block_rows, files[file].size() - row);
            blocks.push_back({.file = file, .rows = {row, count}, .first_row = file_start + row});
        }
        file_start += files[file].size();
    }
    return blocks;
}

[[noreturn]] void bad_sample(const TokenFile& file, const std::string& dataset, std::int64_t row, std::string expected,
                             std::string found, std::string remedy) {
    throw Error(ExitCode::bad_input, {.where = file.path(),
                                      .field = dataset + ", sample " + std::to_string(row),
                                      .expected = std::move(expected),
                                      .found = std::move(found),
                                      .remedy = std::move(remedy)});
}

/// Cuts a block into consecutive rows of at most tokens_per_read tokens (one row at least).
std::vector<RowRange> reads_of(const TokenFile& file, RowRange block) {
    const auto offsets = file.offsets();
    const auto at = [&](std::int64_t row) { return offsets[static_cast<std::size_t>(row)]; };
    std::vector<RowRange> reads;
    for (std::int64_t row = block.first; row < block.end();) {
        std::int64_t end = row + 1;
        while (end < block.end() && at(end + 1) - at(row) <= tokens_per_read) ++end;
        reads.push_back({row, end - row});
        row = end;
    }
    return reads;
}

void hash_strings(Sha256& hash, const std::vector<std::string>& values) {
    for (const std::string& value : values) {  // c_str: with its terminating zero
        hash.update(std::as_bytes(std::span(value.c_str(), value.size() + 1)));
    }
}

/// What one rank finds in its blocks; arrays over all rows, zero for the rows of others.
struct Scan {
    std::vector<std::int32_t> labels;
    std::vector<std::int32_t> after_last_label;
    std::vector<std::int32_t> source;  ///< number of the source within `sources`
    std::map<std::string, std::int32_t> sources;
    std::vector<RowKey> ids, contents;  ///< contents: of samples with labels
    std::int64_t longest_id = 0;
    std::vector<std::uint8_t> digests;  ///< (blocks x 32)
};

void scan_tokens(const TokenFile& file, const Samples& samples, std::int64_t first, std::int64_t vocabulary) {
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        const auto row = static_cast<std::size_t>(i);
        for (std::int64_t p = samples.offsets[row]; p < samples.offsets[row + 1]; ++p) {
            const std::int32_t token = samples.tokens[static_cast<std::size_t>(p)];
            if (token >= 0 && token < vocabulary) continue;
            bad_sample(file, "/tokens", first + i,
                       "token ids 0.." + std::to_string(vocabulary - 1) + " (the model's vocabulary)",
                       std::to_string(token), "Write the file again with jobs/prepare.py and this model.");
        }
    }
}

void scan_labels(const TokenFile& file, const Samples& samples, std::int64_t first, std::size_t first_in_corpus,
                 Scan& scan) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(samples.size()); ++i) {
        for (std::int64_t p = samples.offsets[i]; p < samples.offsets[i + 1]; ++p) {
            const std::uint8_t mask = samples.label_mask[static_cast<std::size_t>(p)];
            if (mask > 1) {
                bad_sample(file, "/label_mask", first + static_cast<std::int64_t>(i), "0 or 1", std::to_string(mask),
                           "Write the file again with jobs/prepare.py.");
            }
            if (mask == 0 || p == samples.offsets[i]) continue;  // nothing predicts the first token
            ++scan.labels[first_in_corpus + i];
            scan.after_last_label[first_in_corpus + i] = static_cast<std::int32_t>(p - samples.offsets[i] + 1);
        }
    }
}

void note_contents(const Samples& samples, std::size_t first_in_corpus, Scan& scan) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(samples.size()); ++i) {
        if (scan.labels[first_in_corpus + i] == 0) continue;
        const auto first = static_cast<std::size_t>(samples.offsets[i]);
        const auto count = static_cast<std::size_t>(samples.offsets[i + 1]) - first;
        scan.contents.push_back(key_of_content(std::span(samples.tokens).subspan(first, count),
                                               std::span(samples.label_mask).subspan(first, count),
                                               static_cast<std::int64_t>(first_in_corpus + i)));
    }
}

/// Ids and sources of a block: hashed, and noted in `scan`.
void scan_strings(const TokenFile& file, const Block& block, Sha256& hash, Scan& scan) {
    const auto ids = file.read_ids(block.rows);
    hash_strings(hash, ids);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        scan.ids.push_back(key_of_id(ids[i], block.first_row + static_cast<std::int64_t>(i)));
        scan.longest_id = std::max(scan.longest_id, std::ssize(ids[i]));
    }
    const auto sources = file.read_sources(block.rows);
    hash_strings(hash, sources);
    for (std::size_t i = 0; i < sources.size(); ++i) {
        const auto number = static_cast<std::int32_t>(scan.sources.size());
        scan.source[static_cast<std::size_t>(block.first_row) + i] =
            scan.sources.try_emplace(sources[i], number).first->second;
    }
}

/// The hash takes all tokens of a block before its first mask, so a block of more than tokens_per_read is read twice.
Sha256Digest scan_block(const TokenFile& file, const Block& block, std::int64_t vocabulary, Scan& scan) {
    Sha256 hash;
    const auto reads = reads_of(file, block.rows);
    for (const RowRange& rows : reads) {
        const Samples samples = file.read(rows);
        hash.update(std::as_bytes(std::span(samples.tokens)));
        scan_tokens(file, samples, rows.first, vocabulary);
        if (reads.size() == 1) hash.update(std::as_bytes(std::span(samples.label_mask)));
        const auto first_in_corpus = static_cast<std::size_t>(block.first_row + rows.first - block.rows.first);
        scan_labels(file, samples, rows.first, first_in_corpus, scan);
        note_contents(samples, first_in_corpus, scan);
    }
    if (reads.size() > 1) {
        for (const RowRange& rows : reads) {
            const Samples samples = file.read(rows);
            hash.update(std::as_bytes(std::span(samples.label_mask)));
        }
    }
    hash.update(std::as_bytes(file.offsets().subspan(static_cast<std::size_t>(block.rows.first),
                                                     static_cast<std::size_t>(block.rows.count) + 1)));
    scan_strings(file, block, hash, scan);
    return hash.digest();
}

/// Collective: every rank's own source numbers become positions in the sorted list of all names, which is returned.
std::vector<std::string> agree_on_sources(comm::Communicator& communicator, Scan& scan) {
    std::string mine;
    for (const auto& [name, number] : scan.sources) mine.append(name.c_str(), name.size() + 1);
    std::set<std::string> names;
    for (const auto& part : communicator.all_gather<char>(mine)) {
        for (auto begin = part.begin(); begin != part.end();) {
            const auto end = std::find(begin, part.end(), '\0');
            names.emplace(begin, end);
            begin = std::next(end);
        }
    }
    std::vector<std::string> sorted(names.begin(), names.end());

    std::vector<std::int32_t> position(scan.sources.size());
    for (const auto& [name, number] : scan.sources) {
        const auto found = std::lower_bound(sorted.begin(), sorted.end(), name);
        position[static_cast<std::size_t>(number)] = static_cast<std::int32_t>(found - sorted.begin());
    }
    for (const RowKey& key : scan.ids) {  // the rows of this rank
        auto& source = scan.source[static_cast<std::size_t>(key.row)];
        source = position[static_cast<std::size_t>(source)];
    }
    return sorted;
}

/// content_sha256 of one file from the digests of its blocks; `at` moves past them.
std::string content_of(const TokenFile& file, std::span<const std::uint8_t> digests, std::size_t& at) {
    const auto blocks = static_cast<std::size_t>((file.size() + hash_block_rows - 1) / hash_block_rows);
    const auto own = digests.subspan(at, blocks * 32);
    at += own.size();
    return sha256_of(std::as_bytes(own));
}

std::string check_contents(const std::vector<TokenFile>& files, std::span<const std::uint8_t> digests, bool is_root) {
    Sha256 all;
    std::size_t at = 0;
    for (const TokenFile& file : files) {
        const std::string content = content_of(file, digests, at);
        if (is_root && content != file.content_sha256()) {
            throw Error(ExitCode::bad_input,
                        {.where = file.path(),
                         .field = "attribute content_sha256",
                         .expected = file.content_sha256(),
                         .found = content,
                         .remedy = "The file changed after it was written: write it again with jobs/prepare.py."});
        }
        all.update(std::as_bytes(std::span(content)));
    }
    return hexadecimal(all.digest());
}

std::pair<const TokenFile*, std::int64_t> locate(const std::vector<TokenFile>& files, std::int64_t row) {
    std::size_t file = 0;
    while (row >= files[file].size()) row -= files[file++].size();
    return {&files[file], row};
}

void check_ids(comm::Communicator& communicator, const std::vector<TokenFile>& files, const Scan& scan) {
    std::int64_t rows = 0;
    for (const TokenFile& file : files) rows += file.size();
    const auto id_of = [&](std::int64_t row) {
        const auto [file, within] = locate(files, row);
        return file->read_ids({within, 1}).front();
    };
    const auto duplicate = find_duplicate_ids(communicator, scan.ids, rows, id_of);
    if (!duplicate) return;
    const auto [first_file, first] = locate(files, duplicate->first);
    const auto [file, row] = locate(files, duplicate->second);
    std::string found = id_of(duplicate->second);
    found += ", the id of sample " + std::to_string(first) + " of " + first_file->path();
    bad_sample(*file, "/id", row, "an id that no other sample has", std::move(found),
               "Give every sample its own id, over all files.");
}

}  // namespace

ScannedCorpus scan_corpus(comm::Communicator& communicator, const std::vector<TokenFile>& files,
                          std::int64_t vocabulary) {
    const auto blocks = blocks_of(files);
    const auto rows = blocks.empty() ? 0 : static_cast<std::size_t>(blocks.back().first_row + blocks.back().rows.count);
    Scan scan;
    scan.labels.assign(rows, 0);
    scan.after_last_label.assign(rows, 0);
    scan.source.assign(rows, 0);
    scan.digests.assign(blocks.size() * 32, 0);
    const auto size = static_cast<std::size_t>(communicator.size());
    for (auto block = static_cast<std::size_t>(communicator.rank()); block < blocks.size(); block += size) {
        const auto digest = scan_block(files[blocks[block].file], blocks[block], vocabulary, scan);
        std::copy(digest.begin(), digest.end(), scan.digests.begin() + static_cast<std::ptrdiff_t>(block * 32));
    }

    // Every row and every digest was filled in by one rank and is zero on the others: the sums are exact.
    communicator.all_reduce<std::uint8_t>(scan.digests, comm::Reduction::sum);
    CorpusIndex index;
    index.content_sha256 = check_contents(files, scan.digests, communicator.is_root());
    check_ids(communicator, files, scan);
    index.source_names = agree_on_sources(communicator, scan);
    communicator.all_reduce(std::span(&scan.longest_id, 1), comm::Reduction::max);
    index.longest_id = scan.longest_id;
    communicator.all_reduce<std::int32_t>(scan.labels, comm::Reduction::sum);
    communicator.all_reduce<std::int32_t>(scan.after_last_label, comm::Reduction::sum);
    communicator.all_reduce<std::int32_t>(scan.source, comm::Reduction::sum);
    index.labels = std::move(scan.labels);
    index.last_label = std::move(scan.after_last_label);
    for (auto& position : index.last_label) --position;
    index.source = std::move(scan.source);
    return {std::move(index), std::move(scan.contents)};
}

}  // namespace idistill::data
